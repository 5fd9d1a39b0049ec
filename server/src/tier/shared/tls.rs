//! TLS to Redis and to collectors: always verified, TLS 1.2 or 1.3.
//!
//! The files are read once, when the daemon is built; a changed certificate needs a restart.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    config::{SharedConfig, TlsFiles},
    error::{Error, Kind, Result},
};

/// How TLS is spoken; `None` when the URL does not ask for it.
///
/// Trusted are the authorities of `ca_file` alone, without it those of the system. Errors are of
/// kind `Unavailable` and name the file. Reads files: call it at the start only.
pub fn tls_client(config: &SharedConfig) -> Result<Option<Arc<ClientConfig>>> {
    let Some(files) = &config.tls else {
        return Ok(None);
    };
    client_config(files, "shared").map(|client| Some(Arc::new(client)))
}

/// The same for files of another section of the configuration, which errors name.
pub fn client_config(files: &TlsFiles, section: &str) -> Result<ClientConfig> {
    let roots = match &files.ca_file {
        Some(path) => roots_of(section, path)?,
        None => roots_of_the_system(section)?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault("TLS cannot be set up").caused_by(error))?
        .with_root_certificates(roots);
    match own_certificate(section, files)? {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
            let text = format!(
                "{section}.cert_file and {section}.key_file do not belong together or are of a \
                 kind that is not supported"
            );
            fault(text).caused_by(error)
        }),
    }
}

fn roots_of(section: &str, path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&format!("{section}.ca_file"), path)? {
        roots.add(certificate).map_err(|error| {
            let text = format!("{section}.ca_file: {}: not an authority", path.display());
            fault(text).caused_by(error)
        })?;
    }
    Ok(roots)
}

fn roots_of_the_system(section: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Systems ship certificates nobody can read; the others are enough.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(fault(format!(
            "no authorities for TLS were found on this system; install the package \
             ca-certificates, or name the authority as {section}.ca_file",
        )));
    }
    Ok(roots)
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own_certificate(section: &str, files: &TlsFiles) -> Result<Option<Own>> {
    let (Some(chain), Some(key)) = (&files.cert_file, &files.key_file) else {
        return Ok(None);
    };
    let chain = certificates(&format!("{section}.cert_file"), chain)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        let text = format!(
            "{section}.key_file: {}: no private key in PEM",
            key.display()
        );
        fault(text).caused_by(error)
    })?;
    Ok(Some((chain, key)))
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<_, _>>);
    let all: Vec<_> = read.map_err(|error| {
        fault(format!("{setting}: {shown}: not certificates in PEM")).caused_by(error)
    })?;
    if all.is_empty() {
        let text = format!("{setting}: {shown}: holds no certificate in PEM");
        return Err(fault(text));
    }
    Ok(all)
}

fn fault(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Unavailable, text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tier::shared::testing::{Certificates, config_of};

    fn files(ca_file: Option<&Path>, own: Option<(&Path, &Path)>) -> SharedConfig {
        let mut config = config_of("rediss://localhost:1");
        config.tls = Some(TlsFiles {
            ca_file: ca_file.map(Into::into),
            cert_file: own.map(|own| own.0.into()),
            key_file: own.map(|own| own.1.into()),
        });
        config
    }

    #[test]
    fn without_tls_in_the_url_there_is_none() {
        let none = tls_client(&config_of("redis://localhost:1")).expect("nothing to read");
        assert!(none.is_none());
    }

    #[test]
    fn good_files_are_taken() {
        let Some(made) = Certificates::make() else {
            return;
        };
        let own = (made.cert_file.as_path(), made.key_file.as_path());
        let config = files(Some(&made.ca_file), Some(own));
        assert!(tls_client(&config).expect("good files").is_some());
    }

    #[test]
    fn a_bad_file_is_named() {
        let Some(made) = Certificates::make() else {
            return;
        };
        let dir = tempfile::tempdir().expect("tempdir");
        let bad = dir.path().join("bad.pem");
        fs::write(&bad, "no certificate").expect("writes");
        let fault = tls_client(&files(Some(&bad), None)).expect_err("is refused");
        let text = fault.to_string();
        assert!(
            text.contains("shared.ca_file") && text.contains("bad.pem"),
            "{text}"
        );
        let own = (made.cert_file.as_path(), bad.as_path());
        let fault = tls_client(&files(Some(&made.ca_file), Some(own))).expect_err("is refused");
        assert!(fault.to_string().contains("shared.key_file"), "{fault}");
        let absent = dir.path().join("absent.pem");
        let fault = tls_client(&files(Some(&absent), None)).expect_err("is refused");
        assert!(fault.to_string().contains("absent.pem"), "{fault}");
    }
}
