package remote

import (
	"testing"

	"github.com/gabionfs/gabion/objstore/asd"
)

func TestAddress(t *testing.T) {
	for _, a := range []Address{{"h:1", asd.ID{}}, {"10.0.0.1:7000", asd.ID{1}}, {"[::1]:7000", asd.ID{0xff}}} {
		if got, err := ParseAddress(a.String()); err != nil || got != a || !IsAddress(a.String()) {
			t.Errorf("%v: %v, %v", a, got, err)
		}
	}
	if a, err := ParseAddress("asd://h:1/"); err != nil || a.Server != "h:1" || !a.ASD.IsZero() {
		t.Error(a, err)
	}
	for _, s := range []string{"", "/disk", "asd://", "asd://h", "asd://h:1/x", "asd://h:1/00000000000000000000000000000000",
		"asd://h:1/FF000000000000000000000000000000", "asd://h:1/ff000000000000000000000000000000/", "asd://u@h:1", "asd://h:1 "} {
		if a, err := ParseAddress(s); err == nil {
			t.Errorf("%q became %v", s, a)
		}
	}
}
