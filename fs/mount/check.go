package mount

// Check looks whether dir can be mounted on, as Mount does first, and changes nothing. When everything
// but the kernel's side is right the error matches ErrNoFuse or ErrNotPermitted.
func Check(dir string, o Options) error {
	abs, err := mountPoint(dir, o.NonEmpty)
	if err != nil {
		return err
	}
	return checkDevice(abs)
}
