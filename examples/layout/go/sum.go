// Sums the flow records of a topic in MessagePack; prints one JSON object.
//
//	(cd examples/layout/go && go build -o ../../../sum .)
//	kcat -C -e -b 127.0.0.1:9092 -t flowstream.flows -f '%R%s' | ./sum
//
// kcat writes each value behind its length: 32 bits, big-endian.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	flowstream "flowstream/schemas/go"
)

func main() {
	log.SetFlags(0)
	reader := bufio.NewReader(os.Stdin)
	var records, packets, bytes, l2Bytes uint64
	for {
		value, err := read(reader)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			log.Fatalf("value %d: %v", records, err)
		}
		flow, err := flowstream.Decode(value)
		if err != nil {
			log.Fatalf("value %d: %v", records, err)
		}
		records++
		packets += flow.Packets
		bytes += flow.Bytes
		l2Bytes += flow.L2Bytes
	}
	fmt.Printf(`{"records":%d,"packets":%d,"bytes":%d,"l2_bytes":%d}`+"\n",
		records, packets, bytes, l2Bytes)
}

// read returns the next value; io.EOF when there is none.
func read(reader io.Reader) ([]byte, error) {
	var length uint32
	if err := binary.Read(reader, binary.BigEndian, &length); err != nil {
		return nil, err
	}
	value := make([]byte, length)
	if _, err := io.ReadFull(reader, value); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return value, nil
}
