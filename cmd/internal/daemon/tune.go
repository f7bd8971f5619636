package daemon

// Tune gives a process that measures the scheduler and the collector of the daemon; memory is the soft limit of the
// heap in bytes, 0 for none.
func Tune(memory int64) { tune(memory) }
