package objstore

import "fmt"

var (
	compressionNames = [...]string{"none", "s2", "zstd"}
	encryptionNames  = [...]string{"none", "aes-256-gcm"}
	checksumNames    = [...]string{"crc32c", "blake3"}
)

func name(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("unknown(%d)", i)
}

func parse(what string, names []string, s string) (uint8, error) {
	for i, n := range names {
		if n == s {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("%s %q: it is one of %v", what, s, names)
}

func (c Compression) String() string { return name(compressionNames[:], uint8(c)) }
func (e Encryption) String() string  { return name(encryptionNames[:], uint8(e)) }
func (c Checksum) String() string    { return name(checksumNames[:], uint8(c)) }

// ParseCompression parses "none", "s2" or "zstd".
func ParseCompression(s string) (Compression, error) {
	i, err := parse("compression", compressionNames[:], s)
	return Compression(i), err
}

// ParseEncryption parses "none" or "aes-256-gcm".
func ParseEncryption(s string) (Encryption, error) {
	i, err := parse("encryption", encryptionNames[:], s)
	return Encryption(i), err
}

// ParseChecksum parses "crc32c" or "blake3".
func ParseChecksum(s string) (Checksum, error) {
	i, err := parse("checksum", checksumNames[:], s)
	return Checksum(i), err
}
