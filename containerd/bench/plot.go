//go:build linux

package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"strconv"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The picture's measures, in points. It is as wide as a README shows it without
// making it smaller by much.
const (
	pictureWidth = 720
	labelWidth   = 246 // left of the bars
	headHeight   = 92
	footHeight   = 24 // for the axis
	leftMargin   = 12
	rightMargin  = 12
	barHeight    = 9
	groupGap     = 8
	onlyBar      = 15 // where there is one bar for an operation

	// How much wider text can be where another font has to take the place of ours.
	wider = 1.15
)

var (
	ink    = color.NRGBA{0x1f, 0x29, 0x33, 0xff}
	pale   = color.NRGBA{0x6b, 0x77, 0x85, 0xff}
	faint  = color.NRGBA{0xe3, 0xe8, 0xed, 0xff}
	band   = color.NRGBA{0xf6, 0xf8, 0xfa, 0xff}
	missed = color.NRGBA{0xc2, 0x18, 0x2b, 0xff}
)

// colours are told apart also by eyes that see no red or no green, and in print.
var colours = []color.NRGBA{
	{0x1f, 0x6f, 0xb4, 0xff}, {0xf0, 0x9a, 0x1a, 0xff}, {0x2b, 0x9e, 0x77, 0xff}, {0x9a, 0xa5, 0xb1, 0xff},
}

// chart draws the ratios of a report as bars from 1, to the right where we are faster.
type chart struct {
	report
	low, high float64 // the ends of the axis
}

// draw writes the picture to a file.
func (r report) draw(file string) error {
	operations := len(r.Filesystems[0].Rows)
	if operations == 0 {
		return fmt.Errorf("%s: no ratio was measured that could be drawn", file)
	}
	c := newChart(r)
	height := headHeight + footHeight + float64(operations)*c.groupHeight()
	svg := vgsvg.NewWith(vgsvg.UseWH(pictureWidth, vg.Length(height)))
	canvas := draw.New(svg)
	canvas.SetColor(color.White)
	canvas.Fill(canvas.Rectangle.Path())
	c.drawHead(canvas)
	c.plot().Draw(draw.Crop(canvas, labelWidth, -rightMargin, 0, -headHeight))
	var buf bytes.Buffer
	if _, err := svg.WriteTo(&buf); err != nil {
		return fmt.Errorf("draw %s: %w", file, err)
	}
	// Where the font is not installed, the others have letters of the same width.
	text := strings.ReplaceAll(buf.String(), "font-family:Liberation Sans", "font-family:'Liberation Sans',Arial,Helvetica,sans-serif")
	return os.WriteFile(file, []byte(text), 0o666)
}

func newChart(r report) chart {
	c := chart{report: r, low: 0.7, high: 2}
	for _, fs := range r.Filesystems {
		for _, row := range fs.Rows {
			ratio := row.ratio()
			c.low = min(c.low, ratio.low*0.9)
			c.high = max(c.high, ratio.high*2, row.target*1.2) // with room for the number
		}
	}
	return c
}

// plot returns the axis with the chart above it.
func (c chart) plot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	p.HideY()
	p.Y.Min, p.Y.Max, p.Y.Padding = 0, float64(len(c.Filesystems[0].Rows)), 0
	p.X.Min, p.X.Max, p.X.Padding = c.low, c.high, 4
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.ConstantTicks(c.ticks())
	p.X.LineStyle.Width, p.X.Tick.LineStyle.Width = 0, 0
	p.X.Tick.Label.Font, p.X.Tick.Label.Color = sans(9, false).Font, pale
	p.Add(c)
	return p
}

// ticks are 1, 2 and 5 of every power of ten between the ends. Large numbers would
// touch one another if all were written.
func (c chart) ticks() []plot.Tick {
	var ticks []plot.Tick
	for power := -6; power < 9; power++ {
		for _, digit := range []string{"1", "2", "5"} {
			value, err := strconv.ParseFloat(fmt.Sprint(digit, "e", power), 64)
			if err == nil && value >= c.low && value <= c.high {
				tick := plot.Tick{Value: value}
				if digit == "1" || value < 10 {
					tick.Label = fmt.Sprint(value, "×")
				}
				ticks = append(ticks, tick)
			}
		}
	}
	return ticks
}

// groupHeight is how much room an operation takes.
func (c chart) groupHeight() float64 {
	if n := len(c.Filesystems); n > 1 {
		return groupGap + barHeight*float64(max(n, 2))
	}
	return groupGap + onlyBar
}

// sans is how text is written.
func sans(size vg.Length, bold bool) text.Style {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
	if bold {
		f.Weight = xfont.WeightBold
	}
	return text.Style{Color: ink, Font: f, YAlign: draw.YCenter, Handler: plot.DefaultTextHandler}
}

func (c chart) drawHead(canvas draw.Canvas) {
	write := func(x, fromTop vg.Length, style text.Style, s string) vg.Length {
		canvas.FillText(style, vg.Point{X: x, Y: canvas.Max.Y - fromTop}, s)
		return x + wider*style.Width(s)
	}
	write(leftMargin, 20, sans(15, true), "fsmeta: how many times as fast as bbolt")
	small := sans(9.5, false)
	small.Color = pale
	m := c.Machine
	write(leftMargin, 38, small, fmt.Sprintf("bbolt's time / fsmeta's, median of %d rounds in turns, quartiles as a thin line, logarithmic scale", c.Rounds))
	write(leftMargin, 51, small, fmt.Sprintf("%s, %d cores, %s, Go %s, %s", m.CPU, m.Cores, m.Kernel, m.Go, m.Date.Format("2 January 2006")))
	const line = 72
	x := vg.Length(leftMargin)
	box := func(fill color.Color, width vg.Length) {
		y := canvas.Max.Y - line
		fillBox(canvas, fill, x, y-4.5, x+width, y+4.5)
		x += width + 5
	}
	for i, fs := range c.Filesystems {
		box(colours[i%len(colours)], 9)
		x = write(x, line, sans(9.5, true), fs.Name) + 16
	}
	box(ink, 2)
	x = write(x, line, sans(9.5, false), "at least, on ext4") + 16
	below := sans(9.5, true)
	below.Color = missed
	write(x, line, below, "less than that")
}

// Plot implements [plot.Plotter]: it draws one operation below the other.
func (c chart) Plot(canvas draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&canvas)
	rows := c.Filesystems[0].Rows
	for i := range rows {
		top := toY(float64(len(rows) - i))
		bottom := toY(float64(len(rows) - i - 1))
		if i%2 == 0 {
			fillBox(canvas, band, canvas.Min.X-labelWidth, bottom, canvas.Max.X+rightMargin, top)
		}
	}
	for _, tick := range c.ticks() {
		style := draw.LineStyle{Color: faint, Width: 0.6}
		if tick.Value == 1 {
			style = draw.LineStyle{Color: ink, Width: 1}
		}
		canvas.StrokeLine2(style, toX(tick.Value), canvas.Min.Y, toX(tick.Value), canvas.Max.Y)
	}
	for i := range rows {
		top := toY(float64(len(rows) - i))
		c.drawLabel(canvas, rows[i].name, top)
		c.drawGroup(canvas, toX, i, top)
	}
}

// drawLabel writes the name of an operation left of its bars, what is behind the first
// comma smaller below it.
func (c chart) drawLabel(canvas draw.Canvas, name string, top vg.Length) {
	at := vg.Point{X: canvas.Min.X - labelWidth + leftMargin, Y: top - vg.Length(c.groupHeight())/2}
	main, rest, two := strings.Cut(name, ", ")
	if two {
		small := sans(8.5, false)
		small.Color = pale
		canvas.FillText(small, vg.Point{X: at.X, Y: at.Y - 6}, rest)
		at.Y += 5
	}
	canvas.FillText(sans(10, true), at, main)
}

// drawGroup draws the bars of an operation, with the target across them.
func (c chart) drawGroup(canvas draw.Canvas, toX func(float64) vg.Length, i int, top vg.Length) {
	height := vg.Length(barHeight)
	if len(c.Filesystems) == 1 {
		height = onlyBar
	}
	y := top - (vg.Length(c.groupHeight())-height*vg.Length(len(c.Filesystems)))/2
	first := y
	target := c.Filesystems[0].Rows[i].target
	for j, fs := range c.Filesystems {
		c.drawBar(canvas, toX, fs.Rows[i], colours[j%len(colours)], y-height, y)
		y -= height
	}
	if target > 0 {
		fillBox(canvas, ink, toX(target)-1, y-2, toX(target)+1, first+2)
	}
}

func (c chart) drawBar(canvas draw.Canvas, toX func(float64) vg.Length, r row, fill color.Color, bottom, top vg.Length) {
	ratio, middle := r.ratio(), (bottom+top)/2
	fillBox(canvas, fill, toX(min(1, ratio.median)), bottom+0.75, toX(max(1, ratio.median)), top-0.75)
	canvas.StrokeLine2(draw.LineStyle{Color: ink, Width: 0.8}, toX(ratio.low), middle, toX(ratio.high), middle)
	style := sans(min(top-bottom-1, 9.5), false)
	if r.reached() == mark(true, false) {
		style = sans(style.Font.Size, true)
		style.Color = missed
	}
	text := significant(ratio.median) + "×"
	x := toX(max(ratio.high, 1)) + 5
	if mark := toX(max(r.target, c.low)); x < mark+3 && x+wider*style.Width(text) > mark-3 {
		x = mark + 5 // not across the mark
	}
	canvas.FillText(style, vg.Point{X: x, Y: middle}, text)
}

func fillBox(canvas draw.Canvas, fill color.Color, left, bottom, right, top vg.Length) {
	canvas.SetColor(fill)
	canvas.Fill(vg.Rectangle{Min: vg.Point{X: left, Y: bottom}, Max: vg.Point{X: right, Y: top}}.Path())
}
