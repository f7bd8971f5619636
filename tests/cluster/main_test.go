package cluster

import (
	"testing"

	"github.com/gabionfs/gabion/tests/harness"
)

func TestMain(m *testing.M) {
	harness.Main(m, roles)
}
