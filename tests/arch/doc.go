// Package arch holds the tests that keep the shape of the source tree: the direction of imports, the
// size of files and the presence of package documentation. It has no code of its own.
package arch
