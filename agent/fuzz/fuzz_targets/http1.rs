//! Any bytes are a head, the start of one, or none; more bytes never turn a verdict of "none" into a head.
#![no_main]

use hopline::protocol::HostName;
use hopline::protocol::http1::{Authority, Host, HostClaim, Parsed, request_head, status};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = request_head(bytes);
    if let Parsed::Head(head) = &whole
        && let HostClaim::Authority(Authority {
            host: Host::Name(name), ..
        }) = &head.host
    {
        assert_eq!(HostName::parse(name.as_str().as_bytes()).as_ref(), Some(name));
    }
    if let Parsed::Head(status) = status(bytes) {
        assert!((101..=999).contains(&status));
    }
    for end in (0..bytes.len().min(1100)).step_by(7) {
        if request_head(&bytes[..end]) == Parsed::Malformed {
            assert_eq!(whole, Parsed::Malformed);
        }
        if status(&bytes[..end]) == Parsed::Malformed {
            assert_eq!(status(bytes), Parsed::Malformed);
        }
    }
    let _ = Authority::parse(bytes);
});
