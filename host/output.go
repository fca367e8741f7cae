package host

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	// longestLine is where a line that does not end is broken.
	longestLine = 64 << 10
	// longestWrite bounds how much is gathered for a write to the output.
	longestWrite = 64 << 10
)

// passOn writes what p prints to the host's output, line by line. While p prints
// faster than the output takes it, p waits.
func (h *Host) passOn(p *process, r *os.File) {
	defer close(p.printed)
	defer r.Close()
	// Where a descendant keeps the pipe, or nobody takes the output, this ends a
	// little after p.
	go func() {
		<-p.gone
		select {
		case <-p.printed:
		case <-time.After(outputGrace):
			r.Close()
		}
	}()
	prefix := fmt.Sprintf("[worker %d, pid %d] ", p.worker, p.pid)
	b := bufio.NewReaderSize(r, longestLine)
	var lines []byte
	for {
		text, err := b.ReadSlice('\n')
		if len(text) > 0 {
			lines = append(append(lines, prefix...), text...)
			if lines[len(lines)-1] != '\n' {
				lines = append(lines, '\n')
			}
		}
		end := err != nil && !errors.Is(err, bufio.ErrBufferFull)
		// What has arrived already goes out at once, as one.
		if len(lines) > 0 && (end || b.Buffered() == 0 || len(lines) >= longestWrite) {
			h.lines.Lock()
			_, _ = h.output().Write(lines) // an output that is gone stops no worker
			h.lines.Unlock()
			lines = lines[:0]
		}
		if end {
			return
		}
	}
}
