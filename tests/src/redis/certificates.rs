//! Certificates for one test, made by `openssl`: an authority, a server, a client, and an
//! authority that nobody knows.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Not the system's file: what it adds to a certificate differs from system to system.
const REQUEST: &str = "
[req]
distinguished_name = name
prompt = no
[name]
CN = pannier test
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectAltName = DNS:pannier
";

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes them in a directory.
    ///
    /// # Panics
    /// With what `openssl` said when it fails.
    pub fn make(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("a directory can be made");
        let made = Self {
            directory: directory.to_owned(),
        };
        fs::write(made.path("request.cnf"), REQUEST).expect("a file can be written");
        made.issue("authority", "authority", None);
        made.issue("stranger", "authority", None);
        made.issue("server", "server", Some("authority"));
        made.issue("client", "client", Some("authority"));
        made
    }

    /// The authority that signed server and client.
    pub fn authority(&self) -> PathBuf {
        self.path("authority.pem")
    }

    /// An authority that signed neither.
    pub fn stranger(&self) -> PathBuf {
        self.path("stranger.pem")
    }

    /// Certificate and key of the server, for `localhost` and 127.0.0.1.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.path("server.pem"), self.path("server.key"))
    }

    /// Certificate and key of a client.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.path("client.pem"), self.path("client.key"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn issue(&self, name: &str, section: &str, signer: Option<&str>) {
        let mut command = Command::new("openssl");
        command
            .current_dir(&self.directory)
            .args(["req", "-x509", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-config", "request.cnf"])
            .args(["-extensions", section, "-subj", &format!("/CN={name}")])
            .args(["-keyout", &format!("{name}.key")])
            .args(["-out", &format!("{name}.pem")]);
        if let Some(signer) = signer {
            command.args(["-CA", &format!("{signer}.pem")]);
            command.args(["-CAkey", &format!("{signer}.key")]);
        }
        let output = command.output().expect("openssl(1) 3.0 or later is there");
        assert!(output.status.success(), "openssl: {output:?}");
    }
}
