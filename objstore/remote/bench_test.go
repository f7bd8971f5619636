package remote

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpccreds "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// nullDisk takes everything and gives what it has at once: what is measured is the way there.
type nullDisk struct{ objstore.Disk }

func (d nullDisk) PutFragment(context.Context, objstore.FragmentKey, []byte, []byte, []uint32) error {
	return nil
}

func (d nullDisk) ReadFragment(context.Context, objstore.FragmentKey, int64, []byte) error {
	return nil
}

// cpu is the time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// transport is one of those that are compared.
type transport interface {
	put(p []byte) error
	get(p []byte) error
}

// BenchmarkTransport compares the protocol of this package with gRPC, its buffers handed through without a
// copy where it can; both over mutual TLS 1.3 on loopback, both ends in this process.
func BenchmarkTransport(b *testing.B) {
	const most = 4 << 20
	content := disktest.Bytes(1, most)
	for _, kind := range []string{"framed", "grpc", "grpc16conns"} {
		var tr transport
		switch kind {
		case "framed":
			r := newRig(b, nullDisk{disktest.New(0)}, ServerOptions{})
			tr = framed{r.open(b), crc.Blocks(nil, content)}
		case "grpc":
			tr = newGRPC(b, content, 1)
		case "grpc16conns":
			tr = newGRPC(b, content, 16)
		}
		for _, n := range []int{4 << 10, most} {
			for _, flying := range []int{1, 16} {
				for name, do := range map[string]func([]byte) error{"put": tr.put, "get": tr.get} {
					b.Run(fmt.Sprintf("%s/%dKiB/%d/%s", kind, n>>10, flying, name), func(b *testing.B) { run(b, n, flying, do) })
				}
			}
		}
	}
}

func run(b *testing.B, n, flying int, do func([]byte) error) {
	b.SetBytes(int64(n))
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range flying { // the connections are there before the clock starts
		p := disktest.Bytes(1, n)
		wg.Go(func() {
			if err := do(p); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	buffers := make([][]byte, flying)
	for i := range buffers {
		buffers[i] = disktest.Bytes(1, n)
	}
	begin := cpu()
	b.ResetTimer()
	for _, p := range buffers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := do(p); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric((cpu()-begin).Seconds()/(float64(b.N)*float64(n)/(1<<30)), "cpu-s/GiB")
}

type framed struct {
	d    *Disk
	sums []uint32
}

func (f framed) put(p []byte) error {
	return f.d.PutFragment(context.Background(), key, nil, p, f.sums[:(len(p)+crc.Block-1)/crc.Block])
}

func (f framed) get(p []byte) error { return f.d.ReadFragment(context.Background(), key, 0, p) }

// bytesCodec sends byte slices as they are.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	p := v.(*[]byte)
	if cap(*p) < data.Len() {
		*p = make([]byte, data.Len())
	}
	*p = (*p)[:data.Len()]
	data.CopyTo(*p)
	return nil
}

func (bytesCodec) Name() string { return "bytes" }

var _ encoding.CodecV2 = bytesCodec{}

type grpcClient struct {
	conns []*grpc.ClientConn
	next  atomic.Int64
}

func (g *grpcClient) put(p []byte) error {
	var out []byte
	return g.invoke("/disk/put", &p, &out)
}

func (g *grpcClient) get(p []byte) error {
	in := []byte{byte(len(p) >> 24), byte(len(p) >> 16), byte(len(p) >> 8), byte(len(p))}
	return g.invoke("/disk/get", &in, &p)
}

func (g *grpcClient) invoke(method string, in, out *[]byte) error {
	c := g.conns[int(g.next.Add(1))%len(g.conns)]
	return c.Invoke(context.Background(), method, in, out)
}

func newGRPC(b *testing.B, content []byte, conns int) *grpcClient {
	ca, err := authory()
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	pool := sync.Pool{New: func() any { p := make([]byte, 4<<20); return &p }}
	method := func(name string, fn func(in []byte) []byte) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			p := pool.Get().(*[]byte)
			defer pool.Put(p)
			if err := dec(p); err != nil {
				return nil, err
			}
			out := fn(*p)
			return &out, nil
		}}
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}), grpc.MaxRecvMsgSize(8<<20),
		grpc.InitialWindowSize(8<<20), grpc.InitialConnWindowSize(64<<20), grpc.ReadBufferSize(256<<10), grpc.WriteBufferSize(256<<10),
		grpc.Creds(grpccreds.NewTLS(creds(b, ca, identity.Node).ServerConfig(nil, "h2"))))
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "disk", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		method("put", func([]byte) []byte { return nil }),
		method("get", func(in []byte) []byte {
			return content[:int(in[0])<<24|int(in[1])<<16|int(in[2])<<8|int(in[3])]
		}),
	}}, nil)
	var work sync.WaitGroup
	work.Go(func() { _ = s.Serve(l) })
	g := &grpcClient{}
	for range conns {
		config := creds(b, ca, identity.Client).ClientConfig("", "h2")
		c, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(grpccreds.NewTLS(config)),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{}), grpc.MaxCallRecvMsgSize(8<<20)),
			grpc.WithInitialWindowSize(8<<20), grpc.WithInitialConnWindowSize(64<<20), grpc.WithReadBufferSize(256<<10), grpc.WithWriteBufferSize(256<<10))
		if err != nil {
			b.Fatal(err)
		}
		g.conns = append(g.conns, c)
	}
	b.Cleanup(func() {
		for _, c := range g.conns {
			_ = c.Close()
		}
		s.Stop()
		work.Wait()
	})
	return g
}

func creds(b *testing.B, ca *identity.CA, kind identity.Kind) *identity.Credentials {
	c, err := ca.New(identity.ID{Cluster: ca.Cluster, Kind: kind, Name: "a"})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// BenchmarkTLS is the floor: bytes in one direction over a TLS connection, in writes of 4 MiB.
func BenchmarkTLS(b *testing.B) {
	ca, err := authory()
	if err != nil {
		b.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", creds(b, ca, identity.Node).ServerConfig(nil, "x"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var work sync.WaitGroup
	work.Go(func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	})
	config := creds(b, ca, identity.Client).ClientConfig("", "x")
	config.DynamicRecordSizingDisabled = true
	c, err := tls.Dial("tcp", l.Addr().String(), config)
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 4<<20)
	_, _ = rand.Read(p)
	b.SetBytes(int64(len(p)))
	begin := cpu()
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu()-begin).Seconds()/(float64(b.N)*float64(len(p))/(1<<30)), "cpu-s/GiB")
	_ = c.Close()
	work.Wait()
}
