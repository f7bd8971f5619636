// Package fsx does random things to files in a mount of gabion and holds them against a model, as the fsx
// program does, with several files at once and restarts in between. It has no code of its own.
package fsx
