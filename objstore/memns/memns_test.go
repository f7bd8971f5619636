package memns

import (
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/nstest"
)

func TestContract(t *testing.T) {
	nstest.Run(t, func(testing.TB) objstore.Namespace { return New() })
}
