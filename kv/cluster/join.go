package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
)

const (
	maxJoinRequest  = 16 << 10
	maxJoinResponse = 4 << 20
	// joinTimeout bounds an exchange, which includes a commit in the directory.
	joinTimeout = 10 * time.Second
	// patient is after how long a newcomer says that nobody lets it in.
	patient = 3 * time.Second
)

// Join makes o.Dir a node of the cluster that the token is for: it gets a certificate, and is known to
// the directory when Join returns. It may be repeated when it was cut off, with the same token even if
// that was for one use.
func Join(ctx context.Context, o JoinOptions) error {
	token, err := identity.ParseToken(o.Token)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := checkAdvertise(o.Advertise); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := prepareDir(o.Dir); err != nil {
		return err
	}
	id, key, err := joinKey(o.Dir, o.ID)
	if err != nil {
		return err
	}
	cert, err := identity.SelfSigned(key)
	if err != nil {
		return err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
	}
	if o.Logger == nil {
		o.Logger = discard()
	}
	j := joiner{token: token, cert: cert, log: o.Logger, request: &clusterpb.JoinRequest{
		Id: id, Address: o.Advertise, Secret: token.Secret[:], Learner: o.Learner}}
	r, ca, err := j.run(ctx, slices.Concat(o.Peers, token.Addrs))
	if errors.Is(err, ErrExists) { // so the next attempt may choose another name
		err = errors.Join(err, os.Remove(joinKeyPath(o.Dir, id)))
	}
	if err != nil {
		return fmt.Errorf("cluster: join as %s: %w", id, err)
	}
	leaf, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return fmt.Errorf("cluster: the certificate that the cluster issued: %w", err)
	}
	creds, err := identity.NewCredentials(ca, leaf, key)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	bundle := &identity.Bundle{Credentials: creds, Addrs: slices.Concat(o.Peers, token.Addrs)}
	for _, n := range r.Nodes {
		if identity.CheckAddr(n.Address) == nil && !slices.Contains(bundle.Addrs, n.Address) && len(bundle.Addrs) < 64 {
			bundle.Addrs = append(bundle.Addrs, n.Address)
		}
	}
	if err := writeMark(o.Dir, Directory, mark{store: Directory}); err != nil {
		return err
	}
	if err := identity.WriteBundle(filepath.Join(o.Dir, nodeFile), bundle); err != nil {
		return err
	}
	return os.Remove(joinKeyPath(o.Dir, id)) // node.pem has it
}

// The key of a node that joins is kept from the first attempt on, under the node's ID: the cluster knows
// the node by both.
const (
	joinKeyPrefix = "join-"
	joinKeySuffix = ".key"
)

func joinKeyPath(dir, id string) string { return filepath.Join(dir, joinKeyPrefix+id+joinKeySuffix) }

func joinKey(dir, id string) (string, *ecdsa.PrivateKey, error) {
	if id == "" {
		id = DefaultID()
		entries, err := os.ReadDir(dir)
		if err != nil {
			return "", nil, err
		}
		for _, e := range entries { // an earlier attempt chose one
			rest, ok := strings.CutPrefix(e.Name(), joinKeyPrefix)
			if was, isKey := strings.CutSuffix(rest, joinKeySuffix); ok && isKey && identity.CheckName(was) == nil {
				id = was
				break
			}
		}
	}
	if err := identity.CheckName(id); err != nil {
		return "", nil, fmt.Errorf("cluster: %w", err)
	}
	path := joinKeyPath(dir, id)
	key, err := identity.ReadKey(path)
	if err == nil {
		return id, key, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", nil, err
	}
	if key, err = identity.NewKey(); err != nil {
		return "", nil, err
	}
	return id, key, identity.WriteKey(path, key)
}

// joiner is the newcomer's side of the exchange.
type joiner struct {
	token   *identity.Token
	cert    tls.Certificate
	log     *slog.Logger
	request *clusterpb.JoinRequest
}

// refusals are the errors that an answer which will not change can stand for.
var refusals = map[clusterpb.Refusal]error{
	clusterpb.Refusal_REFUSAL_TOKEN: ErrToken, clusterpb.Refusal_REFUSAL_NAME: ErrExists, clusterpb.Refusal_REFUSAL_OTHER: ErrRefused,
}

// refusal is the answer that an error of admitNode stands for, nil when another attempt may succeed.
func refusal(err error) *clusterpb.JoinResponse {
	for r, e := range refusals {
		if errors.Is(err, e) {
			return &clusterpb.JoinResponse{Error: err.Error(), Refusal: r}
		}
	}
	return nil
}

func (j *joiner) run(ctx context.Context, addrs []string) (*clusterpb.JoinResponse, *x509.Certificate, error) {
	if len(addrs) == 0 {
		return nil, nil, errors.New("no address of a node is known: neither the token names one, nor the caller")
	}
	var last error
	began, told := time.Now(), false
	for next := ""; ; {
		try := addrs
		if next != "" {
			try, next = append([]string{next}, addrs...), ""
		}
		strangers := 0
		for _, a := range try {
			r, ca, err := j.ask(ctx, a)
			var no *remoteError
			switch {
			case errors.As(err, &no):
				return nil, nil, err
			case err != nil:
				last = fmt.Errorf("%s: %w", a, err)
				if errors.Is(err, identity.ErrIdentity) {
					if strangers++; strangers == len(try) { // no address leads to the cluster
						return nil, nil, last
					}
				}
				continue
			case r.Redirect == nil:
				return r, ca, nil
			}
			last = fmt.Errorf("%s: %w", a, &redirectError{r.Redirect.Node, r.Redirect.Address})
			if to := r.Redirect.Address; to != "" && to != a && identity.CheckAddr(to) == nil {
				next = to
				break
			}
		}
		if !told && time.Since(began) > patient {
			told = true
			j.log.Warn("no node has let this one in yet; asking on", "cause", last)
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("%w (last answer: %w)", ctx.Err(), last)
		}
	}
}

func (j *joiner) ask(ctx context.Context, address string) (*clusterpb.JoinResponse, *x509.Certificate, error) {
	c, err := mux.Dial(ctx, address, identity.Asking(j.token, j.cert, protoJoin))
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := c.SetDeadline(time.Now().Add(joinTimeout)); err != nil {
		return nil, nil, err
	}
	if err := writeMessage(c, j.request); err != nil {
		return nil, nil, err
	}
	r := &clusterpb.JoinResponse{}
	if err := readMessage(c, r, maxJoinResponse); err != nil {
		return nil, nil, err
	}
	if r.Error != "" {
		return nil, nil, &remoteError{r.Error, refusals[r.Refusal]}
	}
	ca, err := identity.Authority(c.ConnectionState(), j.token.CA)
	return r, ca, err
}

func writeMessage(w io.Writer, m proto.Message) error {
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 4), m)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	_, err = w.Write(b)
	return err
}

// readMessage reads a message of at most limit bytes.
func readMessage(r io.Reader, m proto.Message, limit uint32) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > limit {
		return fmt.Errorf("a message of %d bytes, allowed are %d", size, limit)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return proto.Unmarshal(b, m)
}

// admit serves a connection of protocol gabion-join/1.
func (n *Node) admit(c *mux.Conn) {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(joinTimeout)); err != nil {
		return
	}
	request := &clusterpb.JoinRequest{}
	if err := readMessage(c, request, maxJoinRequest); err != nil {
		n.log.Debug("a request to join that cannot be read", "from", c.RemoteAddr(), "cause", err)
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, joinTimeout)
	defer cancel()
	response, err := n.admitNode(ctx, request, c.Cert)
	var re *redirectError
	switch {
	case err == nil:
		n.log.Info("a node has joined", "id", request.Id, "from", c.RemoteAddr())
	case errors.As(err, &re):
		response = &clusterpb.JoinResponse{Redirect: &clusterpb.Redirect{Node: re.node, Address: re.address}}
	case refusal(err) != nil:
		n.log.Warn("a node was refused", "id", request.Id, "from", c.RemoteAddr(), "cause", err)
		response = refusal(err)
	default: // it may try again
		response = &clusterpb.JoinResponse{Redirect: &clusterpb.Redirect{}}
		n.log.Warn("a node could not be admitted", "id", request.Id, "cause", err)
	}
	_ = writeMessage(c, response)
}

// admitNode checks the token, notes the node and certifies its key.
func (n *Node) admitNode(ctx context.Context, r *clusterpb.JoinRequest, cert *x509.Certificate) (*clusterpb.JoinResponse, error) {
	if err := errors.Join(identity.CheckName(r.Id), checkAdvertise(r.Address)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	token := identity.Token{}
	if len(r.Secret) != len(token.Secret) {
		return nil, fmt.Errorf("%w: its secret has the wrong length", ErrToken)
	}
	token.Secret = [32]byte(r.Secret)
	hash := token.Hash()
	response := &clusterpb.JoinResponse{}
	err := n.inDirectory(ctx, func(tx kv.Txn) error {
		response.Reset()
		return n.admitIn(tx, r, hash[:], cert, response)
	})
	if err != nil {
		return nil, err
	}
	for _, x := range n.image.Load().nodes {
		if x.State == clusterpb.NodeState_NODE_ACTIVE {
			response.Nodes = append(response.Nodes, x)
		}
	}
	return response, nil
}

func (n *Node) admitIn(tx kv.Txn, r *clusterpb.JoinRequest, hash []byte, cert *x509.Certificate, out *clusterpb.JoinResponse) error {
	token := &clusterpb.Token{}
	found, err := getRow(tx, ksToken, hash, token)
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("%w: the cluster does not know it, or has forgotten it after it expired", ErrToken)
	case time.Now().Unix() >= token.ExpiresUnix:
		return fmt.Errorf("%w: it expired at %s", ErrToken, time.Unix(token.ExpiresUnix, 0).UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	fp := identity.KeyFingerprint(cert)
	was := &clusterpb.Node{}
	known, err := getRow(tx, ksNode, []byte(r.Id), was)
	switch {
	case err != nil:
		return err
	case known && was.State == clusterpb.NodeState_NODE_REMOVED:
		return fmt.Errorf("%w: there was a node %s, which was removed; its name is not given again", ErrExists, r.Id)
	case known && !slices.Equal(was.KeySha256, fp[:]):
		return fmt.Errorf("%w: there is another node %s", ErrExists, r.Id)
	case !known && token.UsesLeft == 0:
		return fmt.Errorf("%w: it has been used as often as it may be", ErrToken)
	}
	ca, err := authority(tx)
	if err != nil {
		return err
	}
	leaf, err := ca.Issue(identity.ID{Cluster: ca.Cluster, Kind: identity.Node, Name: r.Id}, cert.PublicKey)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	out.Certificate = leaf.Raw
	if known { // an earlier answer was lost
		was.Serial = leaf.SerialNumber.Text(16)
		return putNode(tx, was)
	}
	token.UsesLeft--
	if err := putRow(tx, ksToken, hash, token); err != nil {
		return err
	}
	return putNode(tx, &clusterpb.Node{
		Id: r.Id, Address: r.Address, State: clusterpb.NodeState_NODE_ACTIVE, Learner: r.Learner || token.Learner,
		KeySha256: fp[:], Serial: leaf.SerialNumber.Text(16), JoinedUnix: time.Now().Unix(),
	})
}
