// Package chaos lets everything happen to the disks of a running gabion, one thing after the other and under load, and
// wants every read to be right all the time and all redundancy to come back without being asked for. It has no
// code of its own. `contrib/demo/chaos.sh` shows it line by line.
package chaos
