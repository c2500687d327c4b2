//! Hellos that no library sends, for alerts that no library's client earns.

/// Server name in all of them.
pub(super) const NAME: &str = "raw.lab.test";

/// Nothing wrong with it.
pub(super) fn ordinary() -> Vec<u8> {
    crate::hello::client_hello(NAME)
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// A TLS 1.3 `ClientHello` with this list of compression methods and these extensions beside its name.
fn hello(compression: &[u8], extensions: &[u8]) -> Vec<u8> {
    let entry = [&[0][..], &sized(NAME.as_bytes())].concat();
    let names = [&[0, 0][..], &sized(&sized(&entry))].concat();
    let versions = [0, 43, 0, 3, 2, 3, 4];
    let schemes = [0, 13, 0, 6, 0, 4, 8, 4, 4, 1];
    let all = sized(&[&names[..], &versions, &schemes, extensions].concat());
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 1, compression.len() as u8],
        compression,
        &all,
    ]
    .concat();
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&handshake)].concat()
}

/// RFC 8446 section 9.2 asks for groups and key shares: `missing_extension`.
pub(super) fn without_groups() -> Vec<u8> {
    // A key share without the groups that it is of.
    let share = [&[0, 51][..], &sized(&sized(&[&[0, 29][..], &sized(&[9; 32])].concat()))].concat();
    hello(&[0], &share)
}

/// RFC 8446 section 4.1.2 allows no compression: `illegal_parameter`.
pub(super) fn with_compression() -> Vec<u8> {
    let groups = [0, 10, 0, 4, 0, 2, 0, 29];
    let share = [&[0, 51][..], &sized(&sized(&[&[0, 29][..], &sized(&[9; 32])].concat()))].concat();
    hello(&[1, 0], &[&groups[..], &share].concat())
}

/// The extensions say that they are longer than the message: `decode_error`.
pub(super) fn cut_short() -> Vec<u8> {
    let mut hello = hello(&[0], &[]);
    // Record header 5, handshake header 4, version and random 34, no session 1, suites 4, compression 2.
    hello[50] = hello[50].wrapping_add(40);
    hello
}
