package demo

import (
	"embed"
	"fmt"
	"html/template"
)

//go:embed assets
var assets embed.FS

// cents is an amount of money.
type cents int

// String writes it in euros.
func (c cents) String() string { return fmt.Sprintf("€%d.%02d", int(c)/100, int(c)%100) }

// A product is something the shop sells.
type product struct {
	Slug  string // its name in URLs, and of its picture
	Name  string
	Line  string // what it is, in a few words
	Text  string
	Facts []string
	Price cents
	Art   template.HTML
}

// catalog is what the shop sells, in the order of its pages.
var catalog = []product{
	{
		Slug: "anchor", Name: "Fisherman anchor", Line: "Forged iron, ash stock, 12 kg", Price: 148_00,
		Text:  "The old pattern, which still finds its way through kelp and between stones where lighter anchors skate along. The stock folds flat against the shank for stowing.",
		Facts: []string{"Holds a boat of up to 9 m", "Stock of ash, unshipped by one key", "Hot-dip galvanised under the paint"},
	},
	{
		Slug: "rope", Name: "Three-strand manila", Line: "14 mm, coil of 30 m", Price: 54_00,
		Text:  "Laid right-handed from long fibres, so it splices cleanly and grips a bollard wet or dry. It smells of harbour from the first day.",
		Facts: []string{"Breaking load 1,280 kg", "Both ends whipped by hand", "Floats for about an hour"},
	},
	{
		Slug: "lamp", Name: "Anchor lamp", Line: "Brass and pressed glass, oil", Price: 129_00,
		Text:  "Shows all round and burns for fourteen hours on one filling. The cage keeps a swinging halyard off the glass.",
		Facts: []string{"Visible at two miles", "Wick of 14 mm, two spare", "Takes lamp oil or paraffin"},
	},
	{
		Slug: "compass", Name: "Box compass", Line: "Gimballed card, 90 mm", Price: 89_50,
		Text:  "A dry card under domed glass, swung in two rings. It settles within one roll and reads from the far side of a cockpit.",
		Facts: []string{"Graduated to two degrees", "Sapphire bearing", "Comes with a lidded box"},
	},
	{
		Slug: "block", Name: "Ash block", Line: "Single sheave, iron strop", Price: 38_00,
		Text:  "A shell of ash around a bronze sheave, oiled three times before it leaves the bench. It will outlive the line that runs through it.",
		Facts: []string{"For line of up to 16 mm", "Working load 450 kg", "Every part can be replaced"},
	},
	{
		Slug: "cleat", Name: "Horn cleat", Line: "Cast bronze, 200 mm", Price: 24_50,
		Text:  "Wide feet, rounded horns and nothing to catch a sleeve. One turn, two crossings and a hitch, and the boat stays where you left her.",
		Facts: []string{"For line of up to 16 mm", "Two holes for 8 mm bolts", "Backing plate included"},
	},
	{
		Slug: "bell", Name: "Ship’s bell", Line: "Bell bronze, 150 mm", Price: 72_00,
		Text:  "Tuned, not stamped: cast in one pour and turned on the lathe until it rings for nine seconds. For fog, for watches, and for dinner.",
		Facts: []string{"Heard at half a mile", "Hand-worked lanyard", "Bracket and screws included"},
	},
	{
		Slug: "ring", Name: "Cork life ring", Line: "Canvas over cork, 760 mm", Price: 65_00,
		Text:  "Solid cork in sewn canvas, painted by hand, with a grab line all around. Hangs in reach, and is seen from far.",
		Facts: []string{"Carries two adults", "Grab line of 8 mm", "Your boat’s name on request"},
	},
	{
		Slug: "knife", Name: "Rigger’s knife", Line: "Carbon steel, beech handle", Price: 46_00,
		Text:  "A broad sheepsfoot blade that goes through 20 mm rope in one stroke and stays blunt at the point, where hands and sails are.",
		Facts: []string{"Blade of 95 mm", "Lanyard of tarred hemp", "Sharpened in the shop"},
	},
}

// bySlug finds products.
var bySlug = func() map[string]*product {
	m := map[string]*product{}
	for i := range catalog {
		p := &catalog[i]
		b, err := assets.ReadFile("assets/art/" + p.Slug + ".svg")
		if err != nil {
			panic(err)
		}
		p.Art = template.HTML(b) // our own file
		m[p.Slug] = p
	}
	return m
}()
