package vfs

import (
	"cmp"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"syscall"
)

// An Op is one call of an FS or a File, as the hook of [Mem.Fail] sees it.
type Op string

// The operations. Close and Lock's release never fail.
const (
	OpCreate   Op = "create"
	OpOpen     Op = "open"
	OpRemove   Op = "remove"
	OpRename   Op = "rename"
	OpList     Op = "list"
	OpSyncDir  Op = "syncdir"
	OpLock     Op = "lock"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpSize     Op = "size"
	OpTruncate Op = "truncate"
	OpAllocate Op = "allocate"
	OpSync     Op = "sync"
)

// A Partial error, returned by the hook of [Mem.Fail] for a write, lets the first
// N bytes be written before Err.
type Partial struct {
	N   int
	Err error
}

func (e *Partial) Error() string { return e.Err.Error() }
func (e *Partial) Unwrap() error { return e.Err }

// sectorSize is what a disk writes at once: after a power cut a sector holds one
// of the contents that it had, never a mix of two.
const sectorSize = 512

// Mem is an [FS] in memory that knows what of it would outlast a power cut. It is
// safe for concurrent use.
type Mem struct {
	mu     sync.Mutex
	names  map[string]*inode
	synced map[string]*inode // names as of the last SyncDir
	moves  []move            // what changed them since
	clock  uint64            // counts changes, so that a cut can find their order
	space  int64             // capacity in bytes; negative: no limit
	used   int64
	locked bool
	fail   func(op Op, name string, off, n int64) error
}

// A move is one change of names: what was from is now to; either may be empty.
type move struct {
	at       uint64
	from, to string
	node     *inode
}

// An inode is the content of a file.
type inode struct {
	data     []byte // the written part; what is behind it up to size is zeros
	size     int64
	reserved int64 // bytes from the start that have their blocks
	handles  int
	linked   bool

	// What a cut may bring back: contents and lengths since the last Sync.
	sectors map[int64]*history
	sizes   []oldSize
}

// A history holds what a sector held before, oldest first; what it holds now is
// in the inode's data. The first is what is durable.
type history struct {
	old  []oldSector
	lost bool // a Sync failed since it was last written: it will never be durable as it is
}

type oldSector struct {
	until uint64 // the change that replaced it
	data  [sectorSize]byte
}

type oldSize struct {
	until uint64
	size  int64
}

// NewMem returns an empty folder without a limit of space.
func NewMem() *Mem {
	return &Mem{names: map[string]*inode{}, synced: map[string]*inode{}, space: -1}
}

// Fail sets a hook that every call asks first: what it returns is the call's error,
// and nothing else happens (but see [Partial]). It may block; it must not change m's
// files. off and n are the bytes that a read, write, truncate or allocate is about;
// else 0. A nil hook lets everything through again.
//
// As on Linux, what was written before a Sync that failed stays readable, and is
// not durable after the next one that succeeds either, unless it is written again.
func (m *Mem) Fail(hook func(op Op, name string, off, n int64) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = hook
}

// SetSpace sets how many bytes the files may take in all, written or allocated;
// negative for no limit. Files that are there stay when it is less than they take.
func (m *Mem) SetSpace(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.space = bytes
}

// Used returns how many bytes the files take, written or allocated.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// ask calls the hook. It is called without mu held.
func (m *Mem) ask(op Op, name string, off, n int64) error {
	m.mu.Lock()
	hook := m.fail
	m.mu.Unlock()
	if hook == nil {
		return nil
	}
	if err := hook(op, name, off, n); err != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

// Create implements [FS].
func (m *Mem) Create(name string) (File, error) {
	if err := m.ask(OpCreate, name, 0, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	node := &inode{linked: true, handles: 1, sectors: map[int64]*history{}}
	m.names[name] = node
	m.moved("", name, node)
	return &memFile{m: m, name: name, node: node}, nil
}

// Open implements [FS].
func (m *Mem) Open(name string) (File, error) {
	if err := m.ask(OpOpen, name, 0, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[name]
	if node == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	node.handles++
	return &memFile{m: m, name: name, node: node}, nil
}

// Remove implements [FS].
func (m *Mem) Remove(name string) error {
	if err := m.ask(OpRemove, name, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[name]
	if node == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	m.unlink(name, node)
	m.moved(name, "", node)
	return nil
}

// Rename implements [FS].
func (m *Mem) Rename(from, to string) error {
	if err := m.ask(OpRename, from, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[from]
	if node == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if from == to {
		return nil
	}
	if old := m.names[to]; old != nil {
		m.unlink(to, old)
	}
	delete(m.names, from)
	m.names[to] = node
	m.moved(from, to, node)
	return nil
}

func (m *Mem) moved(from, to string, node *inode) {
	m.clock++
	m.moves = append(m.moves, move{at: m.clock, from: from, to: to, node: node})
}

func (m *Mem) unlink(name string, node *inode) {
	delete(m.names, name)
	node.linked = false
	m.release(node)
}

// release gives back the space of a file that nobody can reach any more.
func (m *Mem) release(node *inode) {
	if !node.linked && node.handles == 0 {
		m.used -= node.reserved
		node.reserved = 0
	}
}

// List implements [FS].
func (m *Mem) List() ([]Info, error) {
	if err := m.ask(OpList, "", 0, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Info, 0, len(m.names))
	for name, node := range m.names {
		list = append(list, Info{Name: name, Size: node.size})
	}
	slices.SortFunc(list, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// SyncDir implements [FS].
func (m *Mem) SyncDir() error {
	if err := m.ask(OpSyncDir, "", 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.synced = maps.Clone(m.names)
	m.moves = nil
	return nil
}

// Lock implements [FS]. There is no file called "lock".
func (m *Mem) Lock() (io.Closer, error) {
	if err := m.ask(OpLock, "", 0, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked {
		return nil, ErrInUse
	}
	m.locked = true
	return &memLock{m: m}, nil
}

type memLock struct {
	m    *Mem
	once sync.Once
}

func (l *memLock) Close() error {
	l.once.Do(func() {
		l.m.mu.Lock()
		defer l.m.mu.Unlock()
		l.m.locked = false
	})
	return nil
}

// A memFile is one open file of a Mem.
type memFile struct {
	m      *Mem
	name   string
	node   *inode
	closed bool
}

// begin asks the hook and takes the lock; the caller unlocks it unless there is an
// error.
func (f *memFile) begin(op Op, off, n int64) error {
	if err := f.m.ask(op, f.name, off, n); err != nil {
		return err
	}
	f.m.mu.Lock()
	if f.closed {
		f.m.mu.Unlock()
		return &fs.PathError{Op: string(op), Path: f.name, Err: fs.ErrClosed}
	}
	return nil
}

func (f *memFile) Size() (int64, error) {
	if err := f.begin(OpSize, 0, 0); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	return f.node.size, nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.begin(OpRead, off, int64(len(p))); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if off >= f.node.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), f.node.size-off))
	f.node.read(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// read fills p, which lies inside the file.
func (i *inode) read(p []byte, off int64) {
	copied := 0
	if off < int64(len(i.data)) {
		copied = copy(p, i.data[off:])
	}
	clear(p[copied:])
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	var failed error
	if err := f.m.ask(OpWrite, f.name, off, int64(len(p))); err != nil {
		part, ok := err.(*fs.PathError).Err.(*Partial)
		if !ok {
			return 0, err
		}
		failed, p = err, p[:min(part.N, len(p))]
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: fs.ErrClosed}
	}
	if err := f.m.reserve(f.node, off+int64(len(p)), f.name); err != nil {
		// Like a real disk, it takes what there is room for.
		p, failed = p[:max(0, min(int64(len(p)), f.node.reserved-off))], err
	}
	f.m.clock++
	f.node.write(p, off, f.m.clock)
	return len(p), failed
}

// reserve takes blocks up to size, as many as there are.
func (m *Mem) reserve(node *inode, size int64, name string) error {
	need := size - node.reserved
	if need <= 0 {
		return nil
	}
	var err error
	if free := m.space - m.used; m.space >= 0 && need > free {
		need = max(0, free)
		err = &fs.PathError{Op: "write", Path: name, Err: syscall.ENOSPC}
	}
	node.reserved += need
	m.used += need
	return err
}

func (i *inode) write(p []byte, off int64, now uint64) {
	if len(p) == 0 {
		return
	}
	end := off + int64(len(p))
	i.remember(off, end, now)
	i.put(p, off)
	if end > i.size {
		i.resize(end, now)
	}
}

// put sets bytes without a trace.
func (i *inode) put(p []byte, off int64) {
	if end := off + int64(len(p)); int64(len(i.data)) < end {
		i.data = append(i.data, make([]byte, end-int64(len(i.data)))...)
	}
	copy(i.data[off:], p)
}

// remember keeps what the sectors from off to end hold, for a cut.
func (i *inode) remember(off, end int64, now uint64) {
	for s := off / sectorSize; s*sectorSize < end; s++ {
		h := i.sectors[s]
		if h == nil {
			h = &history{}
			i.sectors[s] = h
		}
		old := oldSector{until: now}
		i.read(old.data[:], s*sectorSize)
		h.old = append(h.old, old)
		h.lost = false
	}
}

func (i *inode) resize(size int64, now uint64) {
	i.sizes = append(i.sizes, oldSize{until: now, size: i.size})
	i.size = size
}

func (f *memFile) Truncate(size int64) error {
	if err := f.begin(OpTruncate, size, 0); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	node := f.node
	f.m.clock++
	if have := int64(len(node.data)); size < have {
		node.remember(size, have, f.m.clock)
		node.data = node.data[:size:size]
	}
	if size < node.reserved {
		f.m.used -= node.reserved - size
		node.reserved = size
	}
	node.resize(size, f.m.clock)
	return nil
}

func (f *memFile) Allocate(size int64) error {
	if err := f.begin(OpAllocate, 0, size); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if err := f.m.reserve(f.node, size, f.name); err != nil {
		return err
	}
	if size > f.node.size {
		f.m.clock++
		f.node.resize(size, f.m.clock)
	}
	return nil
}

func (f *memFile) Sync() error {
	if err := f.m.ask(OpSync, f.name, 0, 0); err != nil {
		f.m.mu.Lock()
		defer f.m.mu.Unlock()
		for _, h := range f.node.sectors {
			h.lost = true
		}
		return err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return &fs.PathError{Op: "sync", Path: f.name, Err: fs.ErrClosed}
	}
	maps.DeleteFunc(f.node.sectors, func(_ int64, h *history) bool { return !h.lost })
	f.node.sizes = nil
	return nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.closed = true
	f.node.handles--
	f.m.release(f.node)
	return nil
}
