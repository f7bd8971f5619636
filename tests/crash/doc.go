// Package crash ends gabion at the worst moments and looks at what is left: kill -9 under load, and power
// cuts of the filesystem below it. It has no code of its own.
package crash
