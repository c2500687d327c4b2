//! The smallest `ClientHello` and alert that parse: what is forged on the path, and what a generator sends that needs a
//! server name and no handshake.

/// A fatal `handshake_failure` (RFC 8446 section 6) as it stands in the clear.
pub(crate) const FATAL_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// A TLS 1.2 `ClientHello` record with this server name.
pub(crate) fn client_hello(server_name: &str) -> Vec<u8> {
    let name = server_name.as_bytes();
    let entry = [&[0][..], &sized(name)].concat();
    let server_names = [&[0, 0][..], &sized(&sized(&entry))].concat();
    // Groups and signature schemes that every server knows.
    let groups = [0, 10, 0, 4, 0, 2, 0, 23];
    let schemes = [0, 13, 0, 4, 0, 2, 8, 4];
    let extensions = sized(&[&server_names[..], &groups, &schemes].concat());
    let random = [7; 32];
    // No session, one suite (ECDHE-RSA-AES128-GCM-SHA256), no compression.
    let body = [&[3, 3][..], &random, &[0, 0, 2, 0xc0, 0x2f, 1, 0], &extensions].concat();
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&handshake)].concat()
}

/// `bytes` behind their length of two bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_add_up() {
        let hello = client_hello("a.lab.test");
        let length = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
        assert_eq!(length(3), hello.len() - 5);
        assert_eq!(length(7), hello.len() - 9);
        assert!(hello.windows(10).any(|window| window == b"a.lab.test"));
    }
}
