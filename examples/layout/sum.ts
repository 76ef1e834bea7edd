/*
 * Sums the flow records of a topic in MessagePack; prints one JSON object.
 *
 *   tsc --target es2020 --module commonjs --outDir built examples/layout/sum.ts
 *   kcat -C -e -b 127.0.0.1:9092 -t flowstream.flows -f '%R%s' | node built/examples/layout/sum.js
 *
 * kcat writes each value behind its length: 32 bits, big-endian.
 */

import { decode } from "../../schemas/typescript/flowstream";

// Enough of @types/node for this program.
declare const require: (module: "fs") => { readFileSync(descriptor: number): Uint8Array };

const input = require("fs").readFileSync(0);
const lengths = new DataView(input.buffer, input.byteOffset, input.byteLength);
let [records, packets, bytes, l2_bytes] = [0, 0n, 0n, 0n];
for (let position = 0; position < input.length; records++) {
  const begin = position + 4;
  position = begin + lengths.getUint32(position);
  const flow = decode(input.subarray(begin, position));
  packets += flow.packets;
  bytes += flow.bytes;
  l2_bytes += flow.l2_bytes;
}
// JSON.stringify takes no bigint.
console.log(
  `{"records":${records},"packets":${packets},"bytes":${bytes},"l2_bytes":${l2_bytes}}`,
);
