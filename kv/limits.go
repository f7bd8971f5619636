package kv

// previewLen is how much of a key an error quotes.
const previewLen = 32

func preview(key []byte) []byte {
	return append([]byte(nil), key[:min(len(key), previewLen)]...)
}

// CheckKey reports a keyspace or key outside its limits as a *TooLargeError.
func CheckKey(ks Keyspace, key []byte) error {
	if len(ks) < 1 || len(ks) > MaxKeyspace {
		return &TooLargeError{What: "keyspace", Size: len(ks), Max: MaxKeyspace, KeyPreview: preview(key)}
	}
	if len(key) < 1 || len(key) > MaxKey {
		return &TooLargeError{What: "key", Size: len(key), Max: MaxKey, KeyPreview: preview(key)}
	}
	return nil
}

// CheckPut reports a keyspace, key or value outside its limits as a *TooLargeError.
func CheckPut(ks Keyspace, key, value []byte) error {
	if err := CheckKey(ks, key); err != nil {
		return err
	}
	if len(value) > MaxValue {
		return &TooLargeError{What: "value", Size: len(value), Max: MaxValue, KeyPreview: preview(key)}
	}
	return nil
}

// CheckBatch reports a batch over its limit as a *TooLargeError. size is the sum of the lengths of the
// keys that the batch writes or deletes, each counted once, and of the values that it leaves.
func CheckBatch(size int) error {
	if size > MaxBatch {
		return &TooLargeError{What: "batch", Size: size, Max: MaxBatch}
	}
	return nil
}
