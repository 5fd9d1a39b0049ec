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
    """A stage whose runs are given, in groups."""

    def __init__(self, *groups):
        self.groups = [[Run(it, "" if it else "Old", 1.0) for it in group] for group in groups]
        self.on = []

    def switch(self, names):
        self.on.append(tuple(names))

    def attempts(self, _entry):
        return [[lambda run=run: run for run in group] for group in self.groups]


class Judging(unittest.TestCase):
    def judged(self, stage, it):
        right, line = sabotage.judge(stage, it)
        return right, " ".join(line.split())

    def test_the_first_failure_counts(self):
        stage = Fake([True, False, True])
        self.assertEqual(self.judged(stage, entry(uses=("two",))), (True, "one caught 2.0 s Old"))
        self.assertEqual(stage.on, [("two", "one"), ()])

    def test_each_group_has_to_fail(self):
        self.assertEqual(self.judged(Fake([False], [True, False]), entry()),
                         (True, "one caught 3.0 s Old | Old"))
        for groups, faults in ((([False], [True]), "Old | NOT SEEN: what it does"),
                               (([True], [False]), "NOT SEEN: what it does | Old")):
            self.assertEqual(self.judged(Fake(*groups), entry()),
                             (False, f"one NOT CAUGHT 2.0 s {faults}"))

    def test_without_sabotage_nothing_may_fail(self):
        self.assertEqual(sabotage.sound(Fake([True], [True]), [entry()]), [])
        self.assertEqual(sabotage.sound(Fake([False]), [entry()]),
                         ["without sabotage: FAILED: Old"])

    def test_torture_is_a_group_of_its_own_with_each_seed(self):
        stage = sabotage.Stage("tree", "target", 30, 3)
        groups = [entry(tests=(("a", "b"),)), entry(tests=(("a", "b"),), torture=True),
                  entry(torture=True)]
        self.assertEqual([[len(group) for group in stage.attempts(it)] for it in groups],
                         [[1], [1, 3], [3]])


class Renewing(unittest.TestCase):
    def test_only_what_differs_is_written(self):
        with tempfile.TemporaryDirectory() as tree, tempfile.TemporaryDirectory() as fresh:
            for directory, name, text in ((tree, "same", "1"), (tree, "other", "1"),
                                          (tree, "gone/file", "1"), (fresh, "same", "1"),
                                          (fresh, "other", "2"), (fresh, "new/file", "3")):
                path = os.path.join(directory, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
                os.utime(path, (1, 1))
            sabotage.renew(tree, fresh)
            times = {}
            for root, _, files in os.walk(tree):
                for file in files:
                    path = os.path.join(root, file)
                    times[os.path.relpath(path, tree)] = os.stat(path).st_mtime
            self.assertEqual(sorted(times), ["new/file", "other", "same"])
            self.assertEqual(times["same"], 1)
            self.assertGreater(min(times["other"], times["new/file"]), 1)


class Resuming(unittest.TestCase):
    def test_what_was_caught_is_known_by_its_line(self):
        with tempfile.TemporaryDirectory() as directory:
            self.assertEqual(sabotage.done_before(directory), {})
            with open(os.path.join(directory, sabotage.RESULTS), "w", encoding="utf-8") as file:
                file.write("one   caught      1.0 s  Old\ntwo   NOT CAUGHT  2.0 s  NOT SEEN\n")
            self.assertEqual(sabotage.done_before(directory),
                             {"one": "one   caught      1.0 s  Old"})


class Calling(unittest.TestCase):
    def test_an_unknown_name_ends_with_2(self):
        with mock.patch("sys.argv", ["sabotage.py", "--work", tempfile.gettempdir(), "nothing"]), \
                mock.patch("sys.stderr", io.StringIO()) as said:
            self.assertEqual(sabotage.main(), 2)
        self.assertIn("no such sabotage: nothing", said.getvalue())


if __name__ == "__main__":
    unittest.main()
