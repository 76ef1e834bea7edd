// Reads length-delimited messages with GoFlow2's published class; prints each as JSON.
//
// Every field that GoFlow2 knows is printed, also those that are not set. "unknown" is the
// number of octets of fields that it does not know.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/netsampler/goflow2/v2/pb"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/encoding/protojson"
)

func main() {
	reader := bufio.NewReader(os.Stdin)
	form := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}
	for {
		var message flowpb.FlowMessage
		err := protodelim.UnmarshalFrom(reader, &message)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		fields, err := form.Marshal(&message)
		if err != nil {
			log.Fatal(err)
		}
		unknown := len(message.ProtoReflect().GetUnknown())
		fmt.Printf("{\"unknown\":%d,\"fields\":%s}\n", unknown, fields)
	}
}
