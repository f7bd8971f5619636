package local

import "github.com/gabionfs/gabion/objstore"

// Existing returns the namespace of that name, or objstore.ErrNotFound when there is none.
func (b *Backend) Existing(name string) (objstore.Namespace, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ns := b.namespaces[name]; ns != nil {
		return ns, nil
	}
	return nil, objstore.ErrNotFound
}
