//! Sums the flow records of a topic in MessagePack; prints one JSON object.
//!
//!   rustc -O --edition 2021 -o sum examples/layout/sum.rs
//!   kcat -C -e -b 127.0.0.1:9092 -t flowstream.flows -f '%R%s' | ./sum
//!
//! kcat writes each value behind its length: 32 bits, big-endian.

use std::io::{BufRead, Read};

#[path = "../../schemas/rust/flowstream.rs"]
mod flowstream;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut input = std::io::stdin().lock();
    let (mut records, mut packets, mut bytes, mut l2_bytes) = (0u64, 0u64, 0u64, 0u64);
    while !input.fill_buf()?.is_empty() {
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let mut value = vec![0; u32::from_be_bytes(length) as usize];
        input.read_exact(&mut value)?;
        let flow = flowstream::decode(&value).map_err(|err| format!("value {records}: {err}"))?;
        records += 1;
        packets += flow.packets;
        bytes += flow.bytes;
        l2_bytes += flow.l2_bytes;
    }
    println!(
        r#"{{"records":{records},"packets":{packets},"bytes":{bytes},"l2_bytes":{l2_bytes}}}"#
    );
    Ok(())
}
