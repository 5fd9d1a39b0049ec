"""Tests of check_licenses.py."""

import unittest

import check_licenses

CRATES_IO = "https://github.com/rust-lang/crates.io-index"
RULES = {
    "licenses": {
        "allow": ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"],
        "exceptions": [{"crate": "odd", "allow": ["MPL-2.0"]}],
    },
    "bans": {"deny": [{"crate": "openssl-sys", "reason": "rustls"}, "native-tls"]},
    "sources": {"allow-registry": [CRATES_IO], "allow-git": ["https://example.com/ours"]},
}


def package(name="some", licence="MIT", source=f"registry+{CRATES_IO}"):
    return {"name": name, "version": "1.0.0", "license": licence, "source": source}


class Expressions(unittest.TestCase):
    def check(self, expected, *expressions):
        for expression in expressions:
            with self.subTest(expression):
                allowed = set(RULES["licenses"]["allow"])
                self.assertEqual(check_licenses.satisfied(expression, allowed), expected)

    def test_allowed(self):
        self.check(True, "MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "GPL-3.0 / MIT",
                   "MIT AND Apache-2.0", "(MIT OR GPL-3.0) AND Unicode-3.0",
                   "Apache-2.0 WITH LLVM-exception", "GPL-2.0 AND BSD OR MIT")

    def test_not_allowed(self):
        self.check(False, "GPL-3.0", "MIT AND GPL-3.0", "MIT AND (GPL-3.0 OR LGPL-2.1+)",
                   "MIT WITH LLVM-exception", "MIT AND BSD OR GPL-2.0")

    def test_no_expression(self):
        for expression in ["", "OR MIT", "(MIT", "MIT Apache-2.0", "MIT OR", "MIT)"]:
            with self.subTest(expression), self.assertRaises(ValueError):
                check_licenses.satisfied(expression, {"MIT"})


class Packages(unittest.TestCase):
    def faults(self, **fields):
        return check_licenses.check([package(**fields)], RULES)

    def test_good(self):
        self.assertEqual(self.faults(), [])
        self.assertEqual(self.faults(source=None), [])
        self.assertEqual(self.faults(source="git+https://example.com/ours?rev=1#abc"), [])

    def test_licence(self):
        self.assertEqual(self.faults(licence="MPL-2.0"),
                         ["some 1.0.0: licence MPL-2.0 is not allowed"])
        self.assertEqual(self.faults(licence=None), ["some 1.0.0: declares no licence"])
        self.assertIn("cannot be read", self.faults(licence="MIT OR")[0])

    def test_licence_exception_for_one_crate(self):
        self.assertEqual(self.faults(name="odd", licence="MPL-2.0"), [])

    def test_ban(self):
        self.assertEqual(self.faults(name="openssl-sys"), ["openssl-sys 1.0.0: banned: rustls"])
        self.assertEqual(self.faults(name="native-tls"),
                         ["native-tls 1.0.0: banned: see deny.toml"])

    def test_source(self):
        self.assertIn("not allowed", self.faults(source="registry+https://example.com/index")[0])
        self.assertIn("not allowed", self.faults(source="git+https://example.com/theirs#abc")[0])
        self.assertIn("not allowed", self.faults(source=f"git+{CRATES_IO}")[0])


if __name__ == "__main__":
    unittest.main()
