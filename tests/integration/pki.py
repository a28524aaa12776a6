"""A throw-away certificate authority that can do what a real one should not: certificates of the
past and the future, without an issuer, revoked."""

import os
import subprocess

CONFIG = """
[ca]
default_ca = authority
[authority]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
default_crl_days = 2
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
"""


class Pki:
    """Files in a directory: NAME.pem for each certificate, `key` for all of them. "root" signs
    "middle", which signs the rest."""

    def __init__(self, directory):
        self.directory = directory
        for name, text in (("ca.cnf", CONFIG), ("index.txt", "")):
            with open(self.path(name), "w", encoding="ascii") as file:
                file.write(text)
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key")
        self.self_sign("root", "Test Root", "basicConstraints=critical,CA:TRUE")
        self.sign("middle", "Test Middle", "basicConstraints=critical,CA:TRUE", by="root")

    def path(self, name):
        return os.path.join(self.directory, name)

    def openssl(self, *args):
        result = subprocess.run(["openssl", *args], cwd=self.directory, capture_output=True)
        if result.returncode:
            raise AssertionError(f"openssl {' '.join(args)}: {result.stderr.decode()}")

    def _request(self, common_name, extension, *args):
        self.openssl(
            "req", "-new", "-key", "key", "-subj", f"/CN={common_name}", "-addext", extension, *args
        )

    def self_sign(self, name, common_name, extension):
        self._request(common_name, extension, "-x509", "-days", "2", "-out", f"{name}.pem")

    def sign(self, name, common_name, extension, by="middle", start=None, end=None):
        """Dates are YYYYMMDDHHMMSSZ; two days from now on unless given."""
        self._request(common_name, extension, "-out", f"{name}.csr")
        dates = (["-startdate", start] if start else []) + (["-enddate", end] if end else [])
        self.openssl(
            *["ca", "-batch", "-notext", "-config", "ca.cnf", "-keyfile", "key", "-days", "2"],
            *["-cert", f"{by}.pem", "-in", f"{name}.csr", "-out", f"{name}.pem", *dates],
        )

    def revoke(self, name, by="middle"):
        self.openssl(
            *["ca", "-config", "ca.cnf", "-keyfile", "key", "-cert", f"{by}.pem"],
            *["-revoke", f"{name}.pem"],
        )

    def list_revoked(self, name, *authorities):
        """Writes NAME.pem: the revocation lists of these authorities."""
        for authority in authorities:
            self.openssl(
                *["ca", "-config", "ca.cnf", "-keyfile", "key", "-cert", f"{authority}.pem"],
                *["-gencrl", "-out", f"{authority}.crl"],
            )
        self.join(name, *(f"{authority}.crl" for authority in authorities))

    def join(self, name, *parts):
        """Writes NAME.pem: the files one after another."""
        with open(self.path(f"{name}.pem"), "wb") as out:
            for part in parts:
                with open(self.path(part), "rb") as file:
                    out.write(file.read())
        return self.path(f"{name}.pem")
