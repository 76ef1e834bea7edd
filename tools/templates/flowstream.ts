/*
@HEAD@
 * Integers of 64 bits are bigint: a number holds 53 bits exactly.
 */

export const SCHEMA_VERSION = @VERSION@;
export const FLOW_OCTETS = @OCTETS@;

/** Offset of each field. */
export const OFFSET = {
@OFFSETS@
} as const;

/** One flow record, or the announcement of a flow. */
export interface Flow {
@MEMBERS@
}

/** Reads one value; its octets are copied. Throws TypeError, for another version RangeError. */
export function decode(value: Uint8Array): Flow {
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  if (
    value.length < FLOW_OCTETS ||
    value[0] !== @ARRAY@ ||
    view.getUint16(1) < @FIELDS@ ||
    value[3] !== @U8@ ||
    value[5] !== @U8@ ||
    (value[4] !== @FLOW@ && value[4] !== @NEW_FLOW@)
  ) {
    throw new TypeError("not a flow record in MessagePack");
  }
  const version = view.getUint8(OFFSET.schema_version);
  if (version !== SCHEMA_VERSION) {
    throw new RangeError(`unknown schema version ${version}`);
  }
  const octets = (offset: number, count: number) => value.slice(offset, offset + count);
  const text = (offset: number, count: number) =>
    new TextDecoder().decode(octets(offset, count)).replace(/\0+$/, "");
  return {
@READS@
  };
}
