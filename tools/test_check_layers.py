"""Tests of check_layers.py."""

import unittest

import check_layers

LAYERS = {"low": set(), "mid": {"low"}, "high": {"low", "mid"}, "main": {"high", "low", "mid"}}


def faults(**sources):
    """Checks a crate given as file__name=source."""
    files = {name.replace("__", "/") + ".rs": source for name, source in sources.items()}
    return check_layers.check(files, LAYERS)


class Layers(unittest.TestCase):
    def test_downstream_passes(self):
        self.assertEqual(faults(lib="mod low; mod mid;", low="", mid="use crate::low::Thing;"), [])

    def test_upstream_fails(self):
        self.assertEqual(faults(low="//! x\nuse crate::mid::Thing;", mid=""),
                         ["low.rs:2: low must not import mid"])

    def test_path_in_code_counts(self):
        self.assertEqual(faults(low="fn a() { crate::mid::go(); }", mid=""),
                         ["low.rs:1: low must not import mid"])

    def test_super_from_a_nested_file_counts(self):
        found = faults(low="", low__deep="use super::super::mid::Thing;", mid="")
        self.assertEqual(found, ["low/deep.rs:1: low must not import mid"])

    def test_super_in_an_inline_module_counts_from_there(self):
        source = "mod inner {\n    use super::super::mid::Thing;\n    use super::Own;\n}"
        self.assertEqual(faults(low=source, mid=""), ["low.rs:2: low must not import mid"])

    def test_nested_use_groups(self):
        source = "use crate::{\n    low::{self, A as B},\n    high::{c::D, E},\n};"
        self.assertEqual(len(faults(low="", mid=source, high="")), 2)

    def test_tests_comments_strings_and_visibility_do_not_count(self):
        source = """
            // use crate::mid::Thing;
            const A: &str = "crate::mid::Thing";
            pub(in crate::mid) const B: u8 = 1;
            #[cfg(test)]
            mod tests { use crate::mid::Thing; }
        """
        self.assertEqual(faults(low=source, low__tests="use crate::mid::A;", mid=""), [])

    def test_unknown_module_fails(self):
        self.assertEqual(
            faults(other=""),
            ["other: unknown module; add it to LAYERS in tools/check_layers.py"])

    def test_import_from_the_root_fails(self):
        self.assertEqual(
            faults(low="use crate::Thing;"),
            ["low.rs:1: crate::Thing is not a module; import it from where it is defined"])

    def test_main_imports_the_library(self):
        self.assertEqual(faults(main="use pannier_server::{high::Server, low};", high="", low=""),
                         [])
        self.assertEqual(len(faults(main="use pannier_server::Server;", high="")), 1)

    def test_lib_may_name_everything(self):
        self.assertEqual(faults(lib="pub use high::A; pub use crate::low::B;", high="", low=""), [])

    def test_mod_rs_fails(self):
        self.assertIn("low/mod.rs: foo.rs beside foo/, no mod.rs", faults(low__mod=""))


class Cycles(unittest.TestCase):
    def test_between_top_level_modules(self):
        found = faults(low="use crate::mid::A;", mid="use crate::low::B;")
        self.assertIn("cycle in crate: low -> mid -> low", found)

    def test_between_siblings(self):
        found = faults(low="", low__a="use super::b::B;", low__b="use crate::low::c::C;",
                       low__c="use super::a::A;")
        self.assertEqual(found, ["cycle in crate::low: a -> b -> c -> a"])

    def test_parent_and_child_are_no_cycle(self):
        self.assertEqual(faults(low="use self::a::A;", low__a="use super::B;"), [])

    def test_the_table_itself(self):
        found = check_layers.check({}, {"a": {"b"}, "b": {"a"}})
        self.assertEqual(found, ["cycle in LAYERS itself: a -> b -> a"])

    def test_the_real_table_has_none_and_names_only_modules(self):
        self.assertIsNone(check_layers.find_cycle(check_layers.LAYERS))
        for allowed in check_layers.LAYERS.values():
            self.assertLessEqual(allowed, set(check_layers.LAYERS))


class UsePaths(unittest.TestCase):
    def test_trees(self):
        self.assertEqual(check_layers.use_paths("a::b"), [["a", "b"]])
        self.assertEqual(check_layers.use_paths("a::{b, c::{d, e as f}, *}"),
                         [["a", "b"], ["a", "c", "d"], ["a", "c", "e"]])


if __name__ == "__main__":
    unittest.main()
