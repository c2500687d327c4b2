//! What to fetch, read off a URL. Pure.
use hyper::{Uri, http::uri::Scheme};

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As typed.
    pub url: String,
    /// TLS or not.
    pub is_https: bool,
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    /// The port, the scheme's own when none was typed.
    pub port: u16,
    /// Host and port as the Host header has them.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
}

impl Target {
    /// Reads a URL; what is wrong with it otherwise.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`{url}` cannot be fetched: {why}");
        let uri: Uri = url
            .parse()
            .map_err(|error: hyper::http::uri::InvalidUri| wrong(&error.to_string()))?;
        let is_https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(wrong("write http:// or https:// before the host")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("there is no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("user names are not sent"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(wrong("there is no host"));
        }
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" => {
                if is_https {
                    443
                } else {
                    80
                }
            }
            _ => authority.port_u16().ok_or_else(|| wrong("there is no such port"))?,
        };
        Ok(Self {
            url: url.to_owned(),
            is_https,
            host,
            port,
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let check = |url: &str, expected: Option<(bool, &str, u16, &str)>| {
            let target = Target::parse(url);
            let parts = target.as_ref().ok().map(|target| {
                let Target {
                    is_https,
                    host,
                    port,
                    path,
                    ..
                } = target;
                (*is_https, host.as_str(), *port, path.as_str())
            });
            assert_eq!(parts, expected, "{target:?}");
        };
        check("https://mirror.example", Some((true, "mirror.example", 443, "/")));
        check(
            "http://mirror.example/a?b=c",
            Some((false, "mirror.example", 80, "/a?b=c")),
        );
        check("https://[fd00::1]:8443/", Some((true, "fd00::1", 8443, "/")));
        check("http://10.0.0.1:81", Some((false, "10.0.0.1", 81, "/")));
        check("mirror.example", None);
        check("mirror.example/a", None);
        check("ftp://mirror.example/", None);
        check("https:///a", None);
        check("https://mirror.example:70000/", None);
        check("https://mirror.example:/", None);
        check("https://user@mirror.example/", None);
        check("https://mirror example/", None);
    }
}
