package items

import (
	"encoding/json"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/fxamacker/cbor/v2"
)

// Types that must be refused.
type (
	withChan     struct{ Lines []struct{ Notify chan int } }
	withUnseen   struct{ Public, hidden int }
	withMutex    struct{ Mu sync.Mutex }
	withJSONDash struct {
		Password string `json:"-"`
	}
	secret        struct{ N int }
	embedsPointer struct{ *secret }
	stringy       string
	embedsHidden  struct{ stringy }
	taggedHidden  struct {
		secret `cbor:"s"`
	}
	twoNames struct {
		A int `cbor:"x"`
		B int `cbor:"x"`
	}
	Left      struct{ N int }
	Right     struct{ N int }
	ambiguous struct {
		Left
		Right
	}
	viaAlias struct {
		Inner struct{ Deep map[string][]any }
	}
	stamped struct {
		time.Time
		Note string
	}
	stampedPtr struct {
		*url.URL
		Note string
	}
	selfEmbedded struct {
		*selfEmbedded
		N int
	}
	badKeyAsInt struct {
		A int `cbor:"a,keyasint"`
	}
)

var _ = [...]any{withUnseen{hidden: 1}, embedsHidden{stringy: ""}, selfEmbedded{selfEmbedded: nil}}

// Types that marshal themselves.
type oneWayText struct{ N int }

func (oneWayText) MarshalText() ([]byte, error) { return nil, nil }

type onlyBack struct{ N int }

func (*onlyBack) UnmarshalBinary([]byte) error { return nil }

type mixed struct{ N int } // encoded as binary, and then read as text

func (mixed) MarshalBinary() ([]byte, error) { return nil, nil }
func (mixed) MarshalText() ([]byte, error)   { return nil, nil }
func (*mixed) UnmarshalText([]byte) error    { return nil }

type color int // whose zero is no color, as many enumerations have it

func (c color) MarshalText() ([]byte, error) { return []byte{byte(c)}, nil }
func (c *color) UnmarshalText(b []byte) error {
	if b[0] == 0 {
		return errMarshal
	}
	*c = color(b[0])
	return nil
}

type panics struct{ N int }

func (panics) MarshalText() ([]byte, error) { panic("boom") }
func (*panics) UnmarshalText([]byte) error  { return nil }

type forgets struct{ n int }

func (f forgets) MarshalBinary() ([]byte, error) { return []byte{byte(f.n)}, nil }
func (f *forgets) UnmarshalBinary([]byte) error  { f.n = 9; return nil }

// ownStamped embeds a marshaler and has its own, which keeps all.
type ownStamped struct {
	time.Time
	Note string
}

func (s ownStamped) MarshalBinary() ([]byte, error)  { return []byte(s.Note), nil }
func (s *ownStamped) UnmarshalBinary(b []byte) error { s.Note = string(b); return nil }

func refuses[T any](t *testing.T, want ...string) {
	t.Helper()
	c, err := NewCodec[T]()
	if err == nil {
		t.Errorf("%T is taken", *new(T))
		return
	}
	if c != nil {
		t.Errorf("%T: with the error comes a codec", *new(T))
	}
	for _, w := range append(want, "items: ") {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%T: the error is\n%s\nwithout %q", *new(T), err, w)
		}
	}
}

func TestRefuses(t *testing.T) {
	refuses[chan int](t, "items: chan int: chan int cannot leave the process", "LiveKey")
	refuses[func()](t)
	refuses[complex128](t, "the real and the imaginary part")
	refuses[uintptr](t, "address")
	refuses[unsafe.Pointer](t)
	refuses[any](t, "the interface interface {}", "concrete type")
	refuses[error](t)
	refuses[*any](t)
	refuses[withChan](t, "items: items.withChan.Lines[].Notify: chan int cannot leave the process", "`cbor:\"-\"`")
	refuses[*withChan](t, "withChan.Lines[].Notify")
	refuses[map[string]*withChan](t, "[].Lines[].Notify")
	refuses[viaAlias](t, "items.viaAlias.Inner.Deep[][]: the interface")
	refuses[withUnseen](t, "items.withUnseen.hidden: an unexported field", "export it", "MarshalBinary")
	refuses[withMutex](t, "items.withMutex.Mu.")
	refuses[withJSONDash](t, "items.withJSONDash.Password", "`json:\"-\"`", "`cbor:\"Password\"`")
	refuses[embedsPointer](t, "items.embedsPointer.secret", "embed the struct itself")
	refuses[embedsHidden](t, "items.embedsHidden.stringy: an unexported field")
	refuses[taggedHidden](t, "items.taggedHidden.secret: an unexported field")
	refuses[twoNames](t, "items.twoNames.A is lost", "tag")
	refuses[ambiguous](t, "items.ambiguous.Left.N is lost", "embedded")
	refuses[selfEmbedded](t)
	refuses[badKeyAsInt](t)
	refuses[map[*int]int](t, "pointers are other ones")
	refuses[map[[1]*int]int](t, "is lost")
	refuses[map[any]int](t, "[key]: the interface")
	refuses[cbor.Tag](t, "cbor.Tag.Content")

	refuses[oneWayText](t, "items.oneWayText has MarshalText and no UnmarshalText")
	refuses[[]map[string]oneWayText](t, "[][]: ")
	refuses[onlyBack](t, "items.onlyBack has UnmarshalBinary and no MarshalBinary")
	refuses[mixed](t, "items.mixed has MarshalBinary and no UnmarshalBinary")
	refuses[[1]color](t, "[1]items.color[]: the zero items.color does not survive")
	refuses[struct{ C color }](t, ".C: the zero items.color")
	refuses[panics](t, "panic: boom")
	refuses[forgets](t, "comes back as", "instead of")
	refuses[stamped](t, "items.stamped.Note is lost", "the embedded time.Time")
	refuses[stampedPtr](t, "the zero items.stampedPtr does not survive its own marshaler")
	refuses[[]stamped](t, "items.stamped.Note is lost")
}

func takes[T any](t *testing.T, all ...T) {
	t.Helper()
	if _, err := NewCodec[T](); err != nil {
		t.Errorf("%T is refused: %v", *new(T), err)
		return
	}
	for _, v := range all {
		through(t, v)
	}
}

func TestTakes(t *testing.T) {
	takes[withHidden](t)
	takes[basket](t)
	takes[*basket](t)
	takes[list](t)
	takes[tree](t)
	takes[nested](t)
	takes[map[netip.Addr]time.Time](t, map[netip.Addr]time.Time{netip.MustParseAddr("10.0.0.1"): time.Now()})
	takes[map[[2]uint8]bool](t)
	takes[map[GUID]Decimal](t)
	takes[[]net.IP](t, []net.IP{net.IPv4(1, 2, 3, 4), nil})
	takes[url.URL](t)
	takes[*url.URL](t)
	takes[big.Int](t)
	takes[[]*big.Int](t, []*big.Int{big.NewInt(5), nil})
	takes[big.Rat](t)
	takes[slog.Level](t, slog.LevelError)
	takes[[]slog.Level](t, []slog.Level{slog.LevelError})
	takes[json.RawMessage](t)
	takes[json.Number](t)
	takes[cbor.RawMessage](t)
	takes[struct{ Raw cbor.RawMessage }](t)
	takes[ownStamped](t)
	takes[color](t, 5) // by its kind
	takes[[]color](t, []color{5})
	takes[struct{ C *color }](t)
	takes[map[color]color](t)
	takes[struct {
		_ struct{} `cbor:",toarray"`
		A int
		B string
	}](t)
	takes[struct {
		A int `cbor:"1,keyasint"`
		B int `cbor:"2,keyasint,omitempty"`
	}](t)
	takes[struct {
		A []int           `json:"a,omitempty"`
		B *int            `json:"b,omitempty"`
		C map[string]bool `json:"c,omitempty"`
		D time.Time       `json:"d,omitzero"`
		E string          `json:",omitempty"`
	}](t)
}

func TestEmbeddedUnexportedStruct(t *testing.T) {
	type outer struct {
		secret
		*Left `cbor:"left"`
		M     string
	}
	got, _ := through(t, outer{secret{5}, &Left{6}, "x"})
	if got.secret.N != 5 || got.Left == nil || got.Left.N != 6 || got.M != "x" {
		t.Errorf("it comes back as %+v", got)
	}
}

// TestEveryKindIsFilled guards the probe: a field that it left at zero could
// get lost unseen.
func TestEveryKindIsFilled(t *testing.T) {
	type all struct {
		B       bool
		I       int8
		U       uint64
		F       float32
		S       string
		P       *int
		L       []string
		A       [2]int16
		M       map[string]bool
		T       time.Time
		Big     *big.Int
		D       struct{ Inner uint8 }
		Bytes   []byte
		PP      **int
		Nothing int `cbor:"-"`
	}
	p := prober{own: map[reflect.Type]verdict{}, inside: map[reflect.Type]bool{}}
	var v all
	if err := p.fill(reflect.ValueOf(&v).Elem(), "all"); err != nil {
		t.Fatal(err)
	}
	if !v.B || v.I == 0 || v.U == 0 || v.F == 0 || v.S == "" || v.P == nil || *v.P == 0 || len(v.L) != 1 || v.L[0] == "" ||
		v.A[0] == 0 || v.A[1] == 0 || v.A[0] == v.A[1] || len(v.M) != 1 || v.T.IsZero() || v.Big == nil || v.Big.Sign() == 0 ||
		v.D.Inner == 0 || len(v.Bytes) != 1 || **v.PP == 0 || v.Nothing != 0 {
		t.Errorf("filled is %+v", v)
	}
}
