package client

import (
	"bytes"
	"context"
	"fmt"
	"syscall"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
)

// cpu returns the processor time that this process has used, in seconds: what a benchmark beside others can
// tell when the time that passes cannot.
func cpu(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// BenchmarkObject puts and gets objects of 4 MiB that do not compress, over disks in memory: what the client itself
// costs, per gigabyte.
func BenchmarkObject(b *testing.B) {
	for _, sealed := range []bool{false, true} {
		p := preset(objstore.CompressS2, 0, p42)
		if sealed {
			p.Encryption = objstore.EncryptAES
		}
		r := newRig(b, 6, p, patient)
		if sealed {
			k, err := crypt.NewKeys(crypt.Secret{Kind: crypt.KeyFile, Bytes: bytes.Repeat([]byte("k"), 32)})
			if err != nil {
				b.Fatal(err)
			}
			n, err := k.Add(1).Namespace(1)
			if err != nil {
				b.Fatal(err)
			}
			r.ns.SetKeys(n)
		}
		content := noise(4 << 20)
		got := make([]byte, len(content))
		i := 0
		measure := func(name string, fn func()) {
			b.Run(fmt.Sprintf("%s/sealed=%v", name, sealed), func(b *testing.B) {
				b.SetBytes(int64(len(content)))
				begin := cpu(b)
				for b.Loop() {
					fn()
				}
				b.ReportMetric((cpu(b)-begin)/float64(b.N)/float64(len(content))*1e9, "cpu-s/GB")
			})
		}
		ctx := context.Background()
		measure("put", func() {
			i++
			name := fmt.Sprint(i)
			r.put(name, content)
			if i%8 == 0 { // memory is finite
				m, err := r.ns.nsm.Fetch(ctx, name)
				if err != nil {
					b.Fatal(err)
				}
				for _, d := range r.disks {
					for _, k := range d.Keys() {
						if k.Object != m.ID {
							d.Lose(k)
						}
					}
				}
			}
		})
		r.put("x", content)
		measure("get", func() {
			if err := r.ns.ReadAt(ctx, "x", 0, got); err != nil {
				b.Fatal(err)
			}
		})
	}
}
