"""Tests of check_size.py and rust_source.py."""

import os
import tempfile
import unittest

import check_size
import rust_source


def function(lines, name="long"):
    """A function of exactly that many lines."""
    return f"fn {name}() {{\n" + "    work();\n" * (lines - 2) + "}\n"


class Blank(unittest.TestCase):
    def kept(self, source, expected):
        blanked = rust_source.blank(source)
        self.assertEqual(len(blanked), len(source))
        self.assertEqual(blanked.count("\n"), source.count("\n"))
        self.assertEqual(" ".join(blanked.split()), expected)

    def test_line_comment(self):
        self.kept("a; // } {\nb;", "a; b;")

    def test_nested_block_comment(self):
        self.kept("a /* { /* } */ { */ b", "a b")

    def test_unclosed_comment_and_string(self):
        self.kept("a /* {", "a")
        self.kept('a "{', "a")

    def test_string_with_escapes(self):
        self.kept(r'f("\"{\\", x)', "f( , x)")

    def test_string_over_lines(self):
        self.kept('f("{\n}\\\n{", x)', "f( , x)")

    def test_raw_string(self):
        self.kept('f(r"\\", r#"a "{" b"#, br##"}"#"##, x)', "f( , , , x)")

    def test_byte_and_c_string(self):
        self.kept('f(b"{", c"{", b\'{\', x)', "f( , , , x)")

    def test_char_literals(self):
        self.kept(r"f('{', '\'', '\\', '\u{7d}', x)", "f( , , , , x)")

    def test_lifetimes_and_labels(self):
        self.kept("fn f<'a>(x: &'a str) { 'outer: loop {} }",
                  "fn f<'a>(x: &'a str) { 'outer: loop {} }")

    def test_raw_identifier_and_words_that_end_in_r(self):
        self.kept('r#type; var"{"', "r#type; var")

    def test_slashes_in_string(self):
        self.kept('f("http://x", y) }', "f( , y) }")


class TestSpans(unittest.TestCase):
    def names(self, source):
        code = rust_source.blank(source)
        return [source[start:end] for start, end in rust_source.test_spans(code)]

    def test_found_with_braces_in_strings(self):
        block = '#[cfg(test)]\nmod tests {\n    const A: &str = "}";\n}'
        self.assertEqual(self.names(f"fn a() {{}}\n{block}\nfn b() {{}}"), [block])

    def test_with_more_attributes(self):
        block = "#[cfg(all(test, unix))]\n#[allow(unused)]\npub(crate) mod model { }"
        self.assertEqual(self.names(block), [block])

    def test_not_found(self):
        self.assertEqual(self.names("#[cfg(not(test))]\nmod a { }"), [])
        self.assertEqual(self.names("#[cfg(test)]\nmod tests;"), [])
        self.assertEqual(self.names("#[cfg(unix)]\nmod a { }"), [])


class Functions(unittest.TestCase):
    def faults(self, source):
        return check_size.check("src/a.rs", source)

    def test_seventy_lines_pass_and_seventy_one_fail(self):
        self.assertEqual(self.faults(function(70)), [])
        self.assertEqual(self.faults("//! x\n" + function(71)),
                         ["src/a.rs:2: fn long has 71 lines, at most 70"])

    def test_braces_in_literals_do_not_end_a_function(self):
        source = function(71).replace("work();", "f(\"}\", '}');", 1)
        self.assertEqual(len(self.faults(source)), 1)

    def test_signature_counts(self):
        source = "fn a(\n" + "    b: u8,\n" * 69 + ") {}\n"
        self.assertEqual(len(self.faults(source)), 1)

    def test_declaration_without_body(self):
        trait = "trait A {\n    fn a(&self) -> [u8; 4];\n" + "    // x\n" * 80 + "}\n"
        self.assertEqual(self.faults(trait), [])

    def test_const_argument_is_not_the_body(self):
        source = function(71).replace("fn long()", "fn long() -> Array<{ N }>")
        self.assertEqual(len(self.faults(source)), 1)

    def test_function_type_is_not_a_function(self):
        source = "type A = fn(u8);\n" + "struct B {\n" + "    // x\n" * 80 + "}\n"
        self.assertEqual(self.faults(source), [])

    def test_exception_needs_a_reason(self):
        self.assertEqual(self.faults("// size: one table\n" + function(80)), [])
        self.assertEqual(len(self.faults("// size:\n" + function(80))), 1)

    def test_exception_above_attributes(self):
        source = "// size: one table\n#[allow(\n    a,\n    b,\n)]\n/// Doc.\npub " + function(80)
        self.assertEqual(self.faults(source), [])

    def test_exception_of_the_neighbour_does_not_count(self):
        source = "// size: one table\n" + function(80, "a") + "\n" + function(80, "b")
        self.assertEqual(len(self.faults(source)), 1)

    def test_test_functions_are_exempt(self):
        self.assertEqual(self.faults("#[tokio::test]\nasync " + function(80)), [])
        self.assertEqual(self.faults("#[cfg(test)]\nmod tests {\n" + function(80) + "}\n"), [])


class Files(unittest.TestCase):
    SOURCE = "const A: u8 = 1;\n"

    def test_four_hundred_lines_pass_and_one_more_fails(self):
        self.assertEqual(check_size.check("src/a.rs", self.SOURCE * 400), [])
        self.assertEqual(check_size.check("src/a.rs", self.SOURCE * 401),
                         ["src/a.rs:1: 401 lines without tests, at most 400"])

    def test_test_module_does_not_count(self):
        tests = "#[cfg(test)]\nmod tests {\n" + self.SOURCE * 300 + "}\n"
        self.assertEqual(check_size.check("src/a.rs", self.SOURCE * 400 + tests), [])
        self.assertEqual(len(check_size.check("src/a.rs", self.SOURCE * 401 + tests)), 1)

    def test_test_files_are_exempt(self):
        for path in ["tests/src/lib.rs", "server/tests/a.rs", "server/src/engine/tests.rs"]:
            self.assertEqual(check_size.check(path, self.SOURCE * 500), [])

    def test_exception_at_the_top_needs_a_reason(self):
        self.assertEqual(check_size.check("a.rs", "//! size: one table\n" + self.SOURCE * 500), [])
        self.assertEqual(len(check_size.check("a.rs", "//! size:\n" + self.SOURCE * 500)), 1)
        late = self.SOURCE * 500 + "//! size: too late\n"
        self.assertEqual(len(check_size.check("a.rs", late)), 1)


class Lines(unittest.TestCase):
    def test_hundred_columns_pass_and_one_more_fails(self):
        self.assertEqual(check_size.check("a.rs", "// " + "é" * 97), [])
        self.assertEqual(check_size.check("a.rs", "// " + "é" * 98),
                         ["a.rs:1: 101 columns, at most 100"])


class Walk(unittest.TestCase):
    def test_build_output_and_hidden_folders_are_skipped(self):
        with tempfile.TemporaryDirectory() as root:
            for path in ["src/b.rs", "src/a.rs", "target/x/a.rs", ".hidden/a.rs", "src/a.py"]:
                os.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
                open(f"{root}/{path}", "w", encoding="utf-8").close()
            self.assertEqual(rust_source.rust_files(root), ["src/a.rs", "src/b.rs"])


if __name__ == "__main__":
    unittest.main()
