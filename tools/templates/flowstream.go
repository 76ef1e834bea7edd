@HEAD@
package flowstream

import (
	"bytes"
	"encoding/binary"
	"errors"
)

const (
	SchemaVersion = @VERSION@
	FlowOctets    = @OCTETS@
)

// Offset of each field.
const (
@OFFSETS@
)

var (
	// ErrNotAFlow means counters, another format, or a value that is cut.
	ErrNotAFlow      = errors.New("flowstream: not a flow record in MessagePack")
	ErrSchemaVersion = errors.New("flowstream: unknown schema version")
)

// Flow is one flow record, or the announcement of a flow.
type Flow struct {
@MEMBERS@
}

// Decode reads one value, of which it keeps nothing.
func Decode(value []byte) (Flow, error) {
	var flow Flow
	if len(value) < FlowOctets || value[0] != @ARRAY@ ||
		binary.BigEndian.Uint16(value[1:]) < @FIELDS@ || value[3] != @U8@ || value[5] != @U8@ ||
		(value[4] != @FLOW@ && value[4] != @NEW_FLOW@) {
		return flow, ErrNotAFlow
	}
	if value[OffsetSchemaVersion] != SchemaVersion {
		return flow, ErrSchemaVersion
	}
@READS@
	return flow, nil
}
