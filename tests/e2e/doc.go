// Package e2e does with a mount of gabion what people do: it copies trees, builds programs, keeps
// repositories and databases, and looks at the same tree over WebDAV. It has no code of its own.
package e2e
