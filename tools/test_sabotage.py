"""Tests of sabotage.py."""

import io
import os
import tempfile
import unittest
from unittest import mock

import sabotage
from sabotage import Broken, Edit, Run, Sabotage

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def entry(name="one", text="go();", **more):
    change = Edit("server/src/a.rs", text, f"if !{sabotage.ON} {{ go(); }}")
    return Sabotage(name, "what it does", **{"edits": (change,), **more})


class Applying(unittest.TestCase):
    def test_an_edit_stands_behind_its_own_switch(self):
        source = sabotage.apply("fn f() { go(); }", entry().edits[0], "one")
        self.assertEqual(
            source, 'fn f() { if !crate::sabotage::on("one") { go(); } }')

    def test_text_that_is_gone_or_ambiguous_is_an_error(self):
        for source in ("fn f() {}", "go(); go();"):
            with self.assertRaisesRegex(Broken, "one: server/src/a.rs has this"):
                sabotage.apply(source, entry().edits[0], "one")

    def tree(self, directory, table):
        os.makedirs(os.path.join(directory, "server/src"))
        for name, text in (("a.rs", "go();"), ("lib.rs", "mod a;\n")):
            with open(os.path.join(directory, "server/src", name), "w", encoding="utf-8") as file:
                file.write(text)
        sabotage.sabotage_tree(directory, table)

    def test_a_tree_gets_the_switch_as_well(self):
        with tempfile.TemporaryDirectory() as directory:
            self.tree(directory, [entry()])
            with open(os.path.join(directory, "server/src/lib.rs"), encoding="utf-8") as file:
                self.assertEqual(file.read(), "mod a;\nmod sabotage;\n")
            self.assertTrue(os.path.exists(os.path.join(directory, "server/src/sabotage.rs")))

    def test_a_missing_file_an_unknown_name_and_an_empty_entry_are_errors(self):
        elsewhere = entry(edits=(Edit("server/src/b.rs", "x", "y"),))
        for table in ([elsewhere], [entry(uses=("two",))], [entry(edits=())]):
            with tempfile.TemporaryDirectory() as directory, self.assertRaises(Broken):
                self.tree(directory, table)


class TheTable(unittest.TestCase):
    def test_every_edit_fits_the_source(self):
        with tempfile.TemporaryDirectory() as directory:
            for file in {change.file for it in sabotage.SABOTAGES for change in it.edits} | {
                    "server/src/lib.rs"}:
                with open(os.path.join(ROOT, file), encoding="utf-8") as source:
                    text = source.read()
                copy = os.path.join(directory, file)
                os.makedirs(os.path.dirname(copy), exist_ok=True)
                with open(copy, "w", encoding="utf-8") as target:
                    target.write(text)
            sabotage.sabotage_tree(directory, sabotage.SABOTAGES)

    def test_names_are_unique_and_every_test_exists(self):
        names = [it.name for it in sabotage.SABOTAGES]
        self.assertEqual(len(names), len(set(names)))
        for it in sabotage.SABOTAGES:
            for file, name in it.tests:
                path = os.path.join(ROOT, "tests/tests", file + ".rs")
                with open(path, encoding="utf-8") as source:
                    self.assertIn(f"fn {name}(" if name else "fn ", source.read(), it.name)


class Reading(unittest.TestCase):
    def test_the_rules_of_torture_come_first(self):
        output = ("thread 'x' panicked at tests/torture.rs:1:2:\n"
                  "seed 7: {Old: 3, Own: 1}; run it again with: make torture SEED=7\n")
        self.assertEqual(sabotage.fault_of(output), "torture: {Old: 3, Own: 1}")

    def test_otherwise_the_test_and_its_panic(self):
        output = ("thread 'x' panicked at tests/p05.rs:1:2:\nvalue 3 was read\nnote\n"
                  "test a_name ... FAILED\n")
        self.assertEqual(sabotage.fault_of(output), "a_name; value 3 was read")
        self.assertEqual(sabotage.fault_of(""), "no output")


class Fake:
    """A stage whose runs are given."""

    def __init__(self, *passed):
        self.runs = [Run(it, "" if it else "Old", 1.0) for it in passed]
        self.on = []

    def switch(self, names):
        self.on.append(tuple(names))

    def attempts(self, _tests):
        return [lambda run=run: run for run in self.runs]


class Judging(unittest.TestCase):
    def judged(self, stage, it):
        right, line = sabotage.judge(stage, it)
        return right, " ".join(line.split())

    def test_the_first_failure_counts(self):
        stage = Fake(True, False, True)
        self.assertEqual(self.judged(stage, entry(uses=("two",))), (True, "one caught 2.0 s Old"))
        self.assertEqual(stage.on, [("two", "one"), ()])

    def test_nothing_caught_is_wrong_unless_it_is_hidden(self):
        self.assertEqual(self.judged(Fake(True), entry()),
                         (False, "one NOT CAUGHT 1.0 s what it does"))
        self.assertEqual(self.judged(Fake(True), entry(hidden="because")),
                         (True, "one hidden 1.0 s because"))

    def test_what_is_said_to_be_hidden_must_be(self):
        right, line = self.judged(Fake(False), entry(hidden="because"))
        self.assertFalse(right)
        self.assertIn("CAUGHT, though said to be hidden", line)

    def test_without_sabotage_nothing_may_fail(self):
        self.assertEqual(sabotage.sound(Fake(True, True), [entry()]), [])
        self.assertEqual(sabotage.sound(Fake(False), [entry()]),
                         ["without sabotage: FAILED: Old"])


class Calling(unittest.TestCase):
    def test_an_unknown_name_ends_with_2(self):
        with mock.patch("sys.argv", ["sabotage.py", "--work", tempfile.gettempdir(), "nothing"]), \
                mock.patch("sys.stderr", io.StringIO()) as said:
            self.assertEqual(sabotage.main(), 2)
        self.assertIn("no such sabotage: nothing", said.getvalue())


if __name__ == "__main__":
    unittest.main()
