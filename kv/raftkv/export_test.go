package raftkv

import "os"

// WithSync makes sync what makes the log durable.
func WithSync(o *Options, sync func(*os.File) error) { o.syncLog = sync }
