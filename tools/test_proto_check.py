"""Tests of proto_check.py, proto_lint.py and proto_parse.py."""

import contextlib
import io
import json
import os
import tempfile
import unittest

import proto_check
import proto_lint
import proto_parse

API = """// The API of the tests.
syntax = "proto3";

package shop.v1;

import "google/protobuf/timestamp.proto";

option go_package = "shop.dev/shop/v1;shopv1";

// Sells things.
service ShopService {
  // Buys one.
  rpc Buy(BuyRequest) returns (BuyResponse);

  // Follows the sales.
  rpc Follow(stream FollowRequest) returns (stream FollowResponse) {
    option deprecated = true;
  }
}

// Request of Buy.
message BuyRequest {
  reserved 4, 8 to 10;
  reserved "discount";

  // What to buy.
  string name = 1; // With a comment behind it.
  // How many; absent: one.
  optional uint32 count = 2 [deprecated = true];
  /* Notes, by
     author. */
  map<string, Note> notes = 3;
  // How it is paid.
  oneof payment {
    // In coins.
    uint64 coins = 5;
    // By card.
    string card = 6;
  }
  // Extra things.
  repeated string extras = 7;

  // One note.
  message Note {
    // Its text.
    string text = 1;
  }
}

// Response of Buy.
message BuyResponse {
  // When.
  google.protobuf.Timestamp time = 1;
  // What became of it.
  Outcome outcome = 2;
}

// Request of Follow.
message FollowRequest {}

// Response of Follow.
message FollowResponse {}

// What became of an order.
enum Outcome {
  // Never sent.
  OUTCOME_UNSPECIFIED = 0;
  // Sold.
  OUTCOME_SOLD = 1;
  // None left.
  OUTCOME_OUT = 2;
}
"""


def parsed(text=API, path="shop/v1/shop.proto"):
    return proto_parse.parse(path, text)


def edited(*edits):
    """The API with each (old, new) replaced; every old must be there."""
    text = API
    for old, new in edits:
        if old not in text:
            raise AssertionError(f"not in the API: {old}")
        text = text.replace(old, new, 1)
    return text


class Parse(unittest.TestCase):
    def test_messages_fields_and_comments(self):
        request = parsed().messages[0]
        self.assertEqual(request.full_name, "shop.v1.BuyRequest")
        self.assertEqual(request.comment, "Request of Buy.")
        self.assertEqual(
            [(field.number, field.name, field.type, field.label, field.oneof)
             for field in request.fields],
            [(1, "name", "string", "", ""), (2, "count", "uint32", "optional", ""),
             (3, "notes", "map<string, Note>", "map", ""), (5, "coins", "uint64", "", "payment"),
             (6, "card", "string", "", "payment"), (7, "extras", "string", "repeated", "")])
        self.assertEqual(request.fields[2].comment, "Notes, by author.")
        self.assertEqual(request.reserved.ranges, [(4, 4), (8, 10)])
        self.assertEqual(request.reserved.names, ["discount"])

    def test_nested_message(self):
        self.assertEqual(parsed().messages[1].full_name, "shop.v1.BuyRequest.Note")

    def test_services(self):
        buy, follow = parsed().services[0].rpcs
        self.assertEqual((buy.request, buy.client_streaming, buy.server_streaming),
                         ("BuyRequest", False, False))
        self.assertEqual((follow.client_streaming, follow.server_streaming), (True, True))

    def test_a_comment_behind_the_code_is_not_the_next_ones(self):
        file = parsed("// F.\nsyntax = \"proto3\";\npackage a.v1;\nmessage A {\n"
                      "  string a = 1; // Of a.\n  string b = 2;\n}\n")
        self.assertEqual([field.comment for field in file.messages[0].fields], ["", ""])

    def test_a_comment_above_an_empty_line_belongs_to_nobody(self):
        self.assertEqual(parsed("// Lost.\n\nsyntax = \"proto3\";").comment, "")

    def test_strings_hide_comments_and_braces(self):
        file = parsed('syntax = "proto3"; option a = "// } \\" {"; package a.v1;')
        self.assertEqual(file.package, "a.v1")

    def test_reserved_to_max_and_hexadecimal(self):
        file = parsed("message A { reserved 5 to max; string a = 0x2; }")
        self.assertEqual(file.messages[0].reserved.ranges, [(5, 2**29 - 1)])
        self.assertEqual(file.messages[0].fields[0].number, 2)

    def test_errors_name_the_place(self):
        for text, expected in [
                ("message A {\n  string = 1;\n}", "shop.proto:2: word expected, found ="),
                ("message A {", "shop.proto:1: word expected, found end of file"),
                ("\n€", "shop.proto:2: unexpected '€'"),
                ("extend A {}", "shop.proto:1: declaration expected, found extend")]:
            with self.assertRaisesRegex(proto_parse.ParseError, f"^{expected}$"):
                parsed(text, "shop.proto")


class Lint(unittest.TestCase):
    def faults(self, *edits):
        return proto_lint.lint([parsed(edited(*edits))])

    def one(self, expected, *edits):
        """Exactly one fault, with these words in it."""
        faults = self.faults(*edits)
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(expected, faults[0])

    def test_a_good_file_passes(self):
        self.assertEqual(self.faults(), [])

    def test_file(self):
        self.one("no comment opens the file", ("// The API of the tests.\n", ""))
        self.one("syntax is not", ('"proto3"', '"proto2"'))

    def test_package(self):
        faults = proto_lint.lint([parsed(path="shop/v2/shop.proto")])
        self.assertEqual(len(faults), 1)
        self.assertIn("package shop.v1 is not the folder shop/v2", faults[0])
        faults = proto_lint.lint([parsed(API.replace("shop.v1", "shop"), "shop/shop.proto")])
        self.assertEqual(faults, ["shop/shop.proto:1: package shop does not end in a version"])

    def test_file_name(self):
        faults = proto_lint.lint([parsed(path="shop/v1/MyShop.proto")])
        self.assertEqual(len(faults), 1)
        self.assertIn("lower_snake_case.proto", faults[0])

    def test_names(self):
        self.one("field Name: name is not lower_snake_case", ("string name", "string Name"))
        self.one("oneof Payment: name", ("oneof payment", "oneof Payment"))
        self.one("value OUTCOME_Sold: name", ("OUTCOME_SOLD", "OUTCOME_Sold"))
        self.one("does not end in Service", ("ShopService", "Shop"))
        self.one("message note: name is not PascalCase", ("message Note", "message note"),
                 ("map<string, Note>", "map<string, note>"))

    def test_enum_values(self):
        self.one("does not begin with OUTCOME_", ("OUTCOME_SOLD", "SOLD"))
        self.one("first value is not OUTCOME_UNSPECIFIED", ("_UNSPECIFIED", "_UNKNOWN"))
        self.one("number 1 is already OUTCOME_SOLD", ("OUTCOME_OUT = 2", "OUTCOME_OUT = 1"))

    def test_upper_snake(self):
        for name, expected in [("Tier", "TIER"), ("TierOutcome", "TIER_OUTCOME"),
                               ("HTTPCode2", "HTTP_CODE2"), ("AOk", "A_OK")]:
            self.assertEqual(proto_lint.upper_snake(name), expected)

    def test_everything_needs_a_comment(self):
        for comment, name in [
                ("// Sells things.", "service ShopService"), ("  // Buys one.", "rpc Buy"),
                ("// Request of Buy.", "message BuyRequest"), ("  // What to buy.", "field name"),
                ("  // How it is paid.", "oneof payment"), ("    // By card.", "field card"),
                ("  // One note.", "message Note"), ("// What became of an order.", "enum Outcome"),
                ("  // Sold.", "value OUTCOME_SOLD")]:
            self.one(f"{name}: no comment above it", (comment + "\n", "\n"))
            self.one(f"{name}: no comment above it", (comment + "\n", "//\n"))

    def test_rpc_messages(self):
        faults = self.faults(("returns (BuyResponse)", "returns (FollowResponse)"))
        self.assertEqual(len(faults), 2)
        self.assertIn("rpc Buy: FollowResponse is not BuyResponse", faults[0])
        self.assertIn("FollowResponse is already used by rpc Buy", faults[1])

    def test_rpc_messages_may_name_the_service(self):
        self.assertEqual(self.faults(("Buy(BuyRequest", "Buy(ShopServiceBuyRequest"),
                                     ("message BuyRequest", "message ShopServiceBuyRequest")), [])

    def test_streams_have_messages_of_their_own(self):
        self.one("rpc Follow: Events is not FollowResponse",
                 ("stream FollowResponse", "stream Events"),
                 ("message FollowResponse", "message Events"))

    def test_required(self):
        self.one("`required`", ("  string name", "  required string name"))

    def test_imports(self):
        self.one("imported and not used", ("google.protobuf.Timestamp time", "uint64 time"))
        self.one("timestamp.proto: used and not imported",
                 ('import "google/protobuf/timestamp.proto";\n', ""))
        self.one("other.proto: no such file", ("import", 'import "other.proto";\nimport'))
        self.one("imported twice", ("import", 'import "google/protobuf/timestamp.proto";\nimport'))

    def test_import_of_the_neighbour(self):
        other = ('// Types.\nsyntax = "proto3";\npackage shop.v1;\n'
                 'option go_package = "shop.dev/shop/v1;shopv1";\n'
                 "// A coin.\nmessage Coin {}\n")
        text = edited(("import", 'import "shop/v1/coin.proto";\nimport'),
                      ("uint64 coins", "Coin coins"))
        files = [parsed(text), parsed(other, "shop/v1/coin.proto")]
        self.assertEqual(proto_lint.lint(files), [])

    def test_file_options_are_equal_in_a_package(self):
        other = '// Types.\nsyntax = "proto3";\npackage shop.v1;\noption go_package = "x";\n'
        faults = proto_lint.lint([parsed(), parsed(other, "shop/v1/coin.proto")])
        self.assertEqual(len(faults), 1)
        self.assertIn("file options differ", faults[0])

    def test_field_numbers_and_names(self):
        self.one("number 1 is already name", ("count = 2", "count = 1"))
        self.one("number 0 not allowed", ("count = 2", "count = 0"))
        self.one("number 19500 not allowed", ("count = 2", "count = 19500"))
        self.one("number 9 is reserved", ("count = 2", "count = 9"))
        self.one("the name is reserved", ("uint32 count", "uint32 discount"))
        self.one("declared twice", ("uint32 count", "uint32 name"))

    def test_unknown_type(self):
        self.one("Price: unknown type", ("uint64 coins", "Price coins"))
        self.one("Remark: unknown type", ("map<string, Note>", "map<string, Remark>"))


class Breaking(unittest.TestCase):
    def faults(self, *edits):
        old = json.loads(json.dumps(proto_check.describe([parsed()], "shop.v1")))
        new = proto_check.describe([parsed(edited(*edits))], "shop.v1")
        return proto_check.breaking(old, new)

    def one(self, expected, *edits):
        faults = self.faults(*edits)
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(expected, faults[0])

    def test_nothing_changed(self):
        self.assertEqual(self.faults(), [])

    def test_additions_and_comments_pass(self):
        self.assertEqual(self.faults(
            ("// What to buy.", "// What to buy, in other words.\n  bool gift = 11;"),
            ("uint64 coins = 5;", "uint64 coins = 5;\n    string voucher = 12;"),
            ("OUTCOME_OUT = 2;", "OUTCOME_OUT = 2;\n  OUTCOME_LATE = 3;"),
            ("  // Buys one.", "  rpc Sell(FollowRequest) returns (FollowResponse);\n"),
            ("// Request of Follow.", "message New {}\nenum Other { OTHER_UNSPECIFIED = 0; }"),
            ("reserved 4,", "reserved 4, 13,")), [])

    def test_the_same_type_written_differently_passes(self):
        self.assertEqual(self.faults(("Outcome outcome", ".shop.v1.Outcome outcome"),
                                     ("map<string, Note>", "map<string, BuyRequest.Note>")), [])

    def test_field_removed(self):
        self.one("shop.v1.BuyRequest.extras = 7: removed", ("repeated string extras = 7;", ""))

    def test_field_removed_with_only_one_of_number_and_name_reserved(self):
        gone = ("repeated string extras = 7;", "")
        self.one("extras = 7: removed", gone, ("reserved 4,", "reserved 4, 7,"))
        self.one("extras = 7: removed", gone, ('"discount"', '"discount", "extras"'))

    def test_field_removed_and_reserved_passes(self):
        self.assertEqual(self.faults(("repeated string extras = 7;", ""),
                                     ("reserved 4,", "reserved 4, 7,"),
                                     ('"discount"', '"discount", "extras"')), [])

    def test_field_renumbered(self):
        self.one("extras = 7: removed", ("extras = 7", "extras = 11"))

    def test_fields_swapped(self):
        self.assertEqual(len(self.faults(("coins = 5", "coins = 6"), ("card = 6", "card = 5"))), 4)

    def test_field_retyped(self):
        self.one("type changed from uint64 to uint32", ("uint64 coins", "uint32 coins"))
        self.one("type changed from map<string, shop.v1.BuyRequest.Note> to map<string, string>",
                 ("map<string, Note>", "map<string, string>"))

    def test_field_renamed(self):
        self.one("name changed from extras to more", ("string extras", "string more"))

    def test_field_label_changed(self):
        self.one("label changed from repeated to none", ("repeated string", "string"))
        self.one("label changed from optional to none", ("optional uint32", "uint32"))

    def test_field_moved_into_or_out_of_a_oneof(self):
        self.one("oneof changed from none to other",
                 ("  string name = 1;", "  oneof other { string name = 1; }"))
        self.one("oneof changed from payment to none",
                 ("    string card = 6;", ""),
                 ("  // Extra things.", "  string card = 6;"))

    def test_message_removed(self):
        faults = self.faults(("message FollowRequest {}", ""))
        self.assertIn("shop.v1.FollowRequest: message removed", faults)

    def test_reservation_removed(self):
        self.one("reserved 8 to 10 is no longer reserved", ("8 to 10", "8 to 9"))
        self.one('reserved "discount" is no longer reserved', ('reserved "discount";', ""))

    def test_reservation_split_passes(self):
        self.assertEqual(self.faults(("8 to 10", "8, 9 to 10")), [])

    def test_enum_removed(self):
        self.assertIn("shop.v1.Outcome: enum removed", self.faults(("enum Outcome", "enum Result")))

    def test_enum_value_removed(self):
        self.one("OUTCOME_OUT = 2: removed", ("OUTCOME_OUT = 2;", ""))
        self.one("OUTCOME_OUT = 2: removed", ("OUTCOME_OUT = 2;", "reserved 2;"))
        self.assertEqual(
            self.faults(("OUTCOME_OUT = 2;", 'reserved 2; reserved "OUTCOME_OUT";')), [])

    def test_enum_value_renamed_or_renumbered(self):
        self.one("OUTCOME_OUT = 2: removed", ("OUTCOME_OUT", "OUTCOME_NONE_LEFT"))
        self.one("number changed to 3", ("OUTCOME_OUT = 2", "OUTCOME_OUT = 3"))

    def test_service_removed(self):
        self.one("shop.v1.ShopService: service removed", ("ShopService", "StoreService"))

    def test_rpc_removed_or_renamed(self):
        self.one("ShopService.Buy: rpc removed", ("rpc Buy(", "rpc Purchase("))

    def test_rpc_changed(self):
        self.one("request changed from shop.v1.BuyRequest to shop.v1.FollowRequest",
                 ("Buy(BuyRequest)", "Buy(FollowRequest)"))
        self.one("response changed from", ("returns (BuyResponse)", "returns (FollowResponse)"))
        self.one("client_streaming changed from True to False",
                 ("(stream FollowRequest)", "(FollowRequest)"))
        self.one("server_streaming changed from False to True",
                 ("returns (BuyResponse)", "returns (stream BuyResponse)"))


class Commands(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        self.write("shop/v1/shop.proto", API)

    def write(self, path, text):
        path = f"{self.root}/{path}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def run_command(self, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = proto_check.main(list(arguments))
        return code, out.getvalue()

    def test_lint(self):
        self.assertEqual(self.run_command("lint", self.root),
                         (0, "proto lint: 1 files, 0 faults\n"))
        self.write("shop/v1/shop.proto", API.replace("string name", "string Name"))
        self.assertEqual(self.run_command("lint", self.root)[0], 1)

    def test_lint_of_nothing_fails(self):
        self.assertEqual(self.run_command("lint", f"{self.root}/nowhere")[0], 1)

    def test_breaking_before_the_first_release(self):
        self.assertEqual(self.run_command("breaking", self.root),
                         (0, "proto breaking: no released API yet\n"))

    def test_breaking_after_a_release(self):
        code, snapshot = self.run_command("snapshot", "shop.v1", self.root)
        self.assertEqual(code, 0)
        self.write("released/shop.v1.json", snapshot)
        self.assertEqual(self.run_command("breaking", self.root)[0], 0)
        self.write("shop/v1/shop.proto", API.replace("uint64 coins", "uint32 coins"))
        code, out = self.run_command("breaking", self.root)
        self.assertEqual(code, 1)
        self.assertIn("shop.v1.BuyRequest.coins = 5: type changed", out)

    def test_breaking_when_the_package_is_gone(self):
        self.write("released/shop.v1.json", self.run_command("snapshot", "shop.v1", self.root)[1])
        os.remove(f"{self.root}/shop/v1/shop.proto")
        code, out = self.run_command("breaking", self.root)
        self.assertEqual(code, 1)
        self.assertIn("shop.v1.ShopService: service removed", out)

    def test_snapshot_of_an_unknown_package(self):
        self.assertEqual(self.run_command("snapshot", "other.v1", self.root)[0], 2)

    def test_syntax_error(self):
        self.write("shop/v1/shop.proto", "message {")
        self.assertEqual(self.run_command("lint", self.root),
                         (1, "shop/v1/shop.proto:1: word expected, found {\n"))

    def test_unknown_command(self):
        self.assertEqual(self.run_command("fix")[0], 2)


if __name__ == "__main__":
    unittest.main()
