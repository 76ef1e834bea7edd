@HEAD@
#![allow(dead_code)]

pub const SCHEMA_VERSION: u8 = @VERSION@;
pub const FLOW_OCTETS: usize = @OCTETS@;

/// Offset of each field.
pub mod offset {
@OFFSETS@
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Counters, another format, or a value that is cut.
    NotAFlow,
    SchemaVersion(u8),
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Error::NotAFlow => write!(formatter, "not a flow record in MessagePack"),
            Error::SchemaVersion(version) => write!(formatter, "unknown schema version {version}"),
        }
    }
}

impl std::error::Error for Error {}

/// One flow record, or the announcement of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
@MEMBERS@
}

fn octets<const N: usize>(value: &[u8], offset: usize) -> [u8; N] {
    value[offset..offset + N].try_into().unwrap()
}

fn text(value: &[u8], offset: usize, octets: usize) -> String {
    let padded = String::from_utf8_lossy(&value[offset..offset + octets]);
    padded.trim_end_matches('\0').to_string()
}

/// Reads one value.
pub fn decode(value: &[u8]) -> Result<Flow, Error> {
    if value.len() < FLOW_OCTETS
        || value[0] != @ARRAY@
        || u16::from_be_bytes(octets(value, 1)) < @FIELDS@
        || value[3] != @U8@
        || value[5] != @U8@
        || (value[4] != @FLOW@ && value[4] != @NEW_FLOW@)
    {
        return Err(Error::NotAFlow);
    }
    if value[offset::SCHEMA_VERSION] != SCHEMA_VERSION {
        return Err(Error::SchemaVersion(value[offset::SCHEMA_VERSION]));
    }
    Ok(Flow {
@READS@
    })
}
