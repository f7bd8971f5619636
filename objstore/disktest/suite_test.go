package disktest_test

import (
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
)

func TestModel(t *testing.T) {
	disktest.Run(t, func(testing.TB) objstore.Disk { return disktest.New(0) })
}
