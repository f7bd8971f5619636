package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBadUsage(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"", "no command given"},
		{"stauts", `did you mean "status"?`},
		{"asd lst", `did you mean "list"?`},
		{"frobnicate", `unknown command "frobnicate"`},
		{"--nope", "unknown flag: --nope"},
		{"up --nope", "unknown flag: --nope"},
		{"up here", `unexpected argument "here"`},
		{"up --asds", "flag needs an argument"},
		{"up --asds six", "invalid argument"},
		{"up --asds 0", "between 1 and 64"},
		{"up --asds -1", "between 1 and 64"},
		{"up --asds 65", "between 1 and 64"},
		{"up --asds 2 --asd /x", "exclude each other"},
		{"up --asd /x --asd /x/", "given twice"},
		{"up --policy 4,2", "want four numbers"},
		{"up --policy a,b,c,d", "is not a number"},
		{"up --policy 0,2,1,2", "k is 0"},
		{"up --policy 4,2,3,6", "c is 3"},
		{"up --policy 4,2,7,6", "c is 7"},
		{"up --policy 4,2,5,0", "x is 0"},
		{"up --policy 4,-1,4,4", "m is -1"},
		{"up --dav nope", "want an address"},
		{"up --dav :99999", "want an address"},
		{"up --dav 0.0.0.0:0", "would serve everyone"},
		{"up --dav :0", "would serve everyone"},
		{"up --dav off", "nothing to serve"},
		{"up --dav-user anna", "belong together"},
		{"up --dav off --mount /x --dav-user anna --dav-password-file " + password, "make no sense"},
		{"up --mount=", "--mount is empty"},
		{"up --pprof 0.0.0.0:0", "only loopback"},
		{"up --memory much", "want a size"},
		{"up --memory 1MiB", "at least 64MiB"},
		{"up --cache=", "--cache is empty"},
		{"up --cache /x --cache-size 1MiB", "at least 16MiB"},
		{"up --cache /x --cache-size lots", "want a size"},
		{"up --cache /x --cache-on delete", "it is read, write"},
		{"up --cache-size 1GiB", "makes no sense without --cache"},
		{"up --cache-memory 5", "at least 1MiB"},
		{"up --log-level loud", "one of debug, info, warn, error"},
		{"status extra", `unexpected argument "extra"`},
		{"asd add", "want one folder"},
		{"asd disable", "want one disk"},
		{"asd stat asd://10.0.0.1:7100/0123456789abcdef0123456789abcdef", "served by another process"},
		{"up --store home", "give the cluster as well"},
		{"up --cluster /x", "give the store as well"},
		{"up --cluster /x --store Home!", "allowed are small letters"},
		{"up --steal", "makes no sense without --cluster"},
		{"node", "give --listen"},
		{"node --listen here", "want an address"},
		{"node --listen :7000", "give --advertise"},
		{"node --listen 0.0.0.0:7000", "give --advertise"},
		{"node --listen 127.0.0.1:99999", "is not a port"},
		{"node --listen 127.0.0.1:0 --advertise nope", "want an address"},
		{"node --listen 127.0.0.1:0 --join nope", "want an address"},
		{"node --listen 127.0.0.1:0 --token a --token-file b", "exclude each other"},
		{"node --listen 127.0.0.1:0 --id Anna", "allowed are small letters"},
		{"node --listen 127.0.0.1:0 --log-level loud", "one of debug, info, warn, error"},
		{"node here", `unexpected argument "here"`},
		{"cluster", "no command given"},
		{"cluster stat", `did you mean "status"?`},
		{"cluster init", "give --listen"},
		{"cluster init --listen :7000", "give --advertise"},
		{"cluster init --listen 127.0.0.1:7000 --id -x", "allowed are small letters"},
		{"cluster token --ttl 0s", "between 1s and a year"},
		{"cluster token --uses 0", "between 1 and 1000"},
		{"cluster status --cluster /x", "exclude each other"},
		{"cluster status --timeout 0s", "must be above 0"},
		{"cluster add", "want one node"},
		{"cluster remove", "want one node"},
		{"cluster remove Anna", "allowed are small letters"},
		{"cluster replace anna", "want a node and the one that takes its place"},
		{"cluster replace anna anna", "cannot take its own place"},
		{"cluster transfer-leader", "want a store"},
		{"cluster preferred app", "or --none"},
		{"cluster preferred app anna --none", "or --none"},
		{"cluster client anna", "want a name and a file"},
		{"cluster client An/na f", "allowed are small letters"},
		{"cluster store", "no command given"},
		{"cluster store create", "want one name"},
		{"cluster store create app --learner anna", "--learner needs --voter"},
		{"cluster store delete app", "give --yes"},
		{"cluster store members app --all --voter anna", "exclude each other"},
		{"kv get", "want a key"},
		{"kv get k --level fresh", "one of linearizable, session, stale"},
		{"kv get k --level session", "give the log index"},
		{"kv get k --index 7", "make no sense"},
		{"kv get k --level stale --index 7", "use --level session"},
		{"kv get k --level stale --max-age -1s", "must not be negative"},
		{"kv get k --timeout 0s", "must be above 0"},
		{"kv get k --store app", "give the cluster as well"},
		{"kv get k --cluster /x --store app", "exclude each other"},
		{"kv exists", "want a key"},
		{"kv test-and-set k", "want a key, the value that it must have, and a new one"},
		{"kv test-and-set k v --absent --remove", "exclude each other"},
		{"kv test-and-set k --absent", "want a key and a new value"},
		{"kv replace k", "want a key and a value"},
		{"kv confirm k", "want a key and a value"},
		{"kv delete-prefix", "want one prefix"},
		{"kv call", "want the name of a procedure"},
		{"kv watch a b", "want at most one prefix"},
		{"kv watch --limit -1", "must not be negative"},
		{"kv backup", "want one file"},
		{"kv restore", "want one file"},
		{"kv range --from a --after b", "--after says where the list begins"},
		{"kv set k", "want a key and a value"},
		{"kv set -s inode k v", "may belong to the filesystem"},
		{"kv get --hex xyz", "is not hexadecimal"},
		{"kv range --prefix a --from b", "excludes"},
		{"kv range --limit -1", "must not be negative"},
		{"object put", "want a name"},
		{"object stat", "want one name"},
		{"bench nothing", "nothing"},
		{"bench kv --clients 0", "at least 1"},
		{"bench kv --seconds 0", "above 0"},
		{"bench asd --asds 0", "between 1 and 64"},
		{"bench asd --kib 0", "between 1 and"},
		{"bench fs --threads 1,0", "at least 1"},
		{"bench object --policy 1", "want four numbers"},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := strings.Fields(c.args)
			if len(args) > 0 {
				args = append([]string{"--data", data}, args...)
			}
			r := gabion(t, args...)
			r.want(t, 2, c.want)
			if r.out != "" || strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, "gabion: ") {
				t.Errorf("not one clear line:\n%s%s", r.out, r.err)
			}
			if _, err := os.Stat(data); err == nil {
				t.Error("the data directory was made")
			}
		})
	}
}

func TestNothingThere(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"status"}, {"fsck"}, {"asd", "list"}, {"kv", "get", "x"}, {"object", "ls"}} {
		dir := filepath.Join(t.TempDir(), "data")
		r := gabion(t, append(args, "--data", dir)...)
		code := 1
		if args[0] == "fsck" {
			code = 3
		}
		r.want(t, code, "no gabion data here", "gabion up --data")
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%v made %s", args, dir)
		}
	}
}
