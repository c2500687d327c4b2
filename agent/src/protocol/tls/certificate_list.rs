//! The Certificate message of TLS 1.2 (RFC 5246 section 7.4.2): a list of DER certificates, the peer's own first.

use super::super::bytes::Bytes;

/// Certificates that are read of one message; real chains have two to four.
pub const CERTIFICATES: usize = 10;

/// The certificates in a message's body, at most [`CERTIFICATES`]. `None` when its inner lengths lie.
pub fn certificate_list(body: &[u8]) -> Option<Vec<&[u8]>> {
    let mut bytes = Bytes(body);
    let mut list = bytes.vector24()?;
    if !bytes.is_empty() {
        return None;
    }
    let mut certificates = Vec::new();
    while !list.is_empty() {
        let certificate = list.vector24()?.0;
        if certificate.is_empty() {
            return None;
        }
        if certificates.len() < CERTIFICATES {
            certificates.push(certificate);
        }
    }
    Some(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(certificate_list(&[0, 0, 0]), Some(vec![]));
        let two = [0, 0, 9, 0, 0, 2, 7, 8, 0, 0, 1, 9];
        assert_eq!(certificate_list(&two), Some(vec![&[7, 8][..], &[9]]));
        for cut in 0..two.len() {
            assert_eq!(certificate_list(&two[..cut]), None);
        }
        assert_eq!(certificate_list(&[0, 0, 3, 0, 0, 0]), None);
        assert_eq!(certificate_list(&[0, 0, 0, 1]), None);
    }
}
