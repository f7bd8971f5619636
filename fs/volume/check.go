package volume

import "github.com/gabionfs/gabion/fs/data"

// Data returns the store of the volume's content, for data.Check.
func (v *Volume) Data() *data.Store { return v.data }
