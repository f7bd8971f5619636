//go:build race

package main_test

// raceFlags make the tested binary look for races when the test does.
var raceFlags = []string{"-race"}
