"""Hostile XML, and XML of our own."""

from contextlib import suppress
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.s3 import xml


@pytest.mark.parametrize("body", [
    b"", b"x", b"<a", b"<a></b>", b"<a>\0</a>", b"\xff\xfe", b"<b/>", b"<a/><a/>", b"<a>&b;</a>",
    b'<?xml version="1.0" encoding="nonsense"?><a/>', b'<?xml version="1.0" encoding="utf-7"?><a/>', b"<a>\xff</a>",
    b"<!DOCTYPE a><a/>",
    b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    b'<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>',
    b'<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd"><a/>',
    b"<a>" * 9 + b"</a>" * 9,
    b"<a>" * 100_000,
    b"<a>" + b"<b/>" * 100_000 + b"</a>",
])  # fmt: skip
def test_what_is_hostile_is_malformed(body: bytes) -> None:
    with pytest.raises(xml.Malformed):
        xml.parse(body, "a")


@given(st.binary(max_size=200))
def test_nothing_else_happens_than_a_document_or_malformed(body: bytes) -> None:
    with suppress(xml.Malformed):
        xml.parse(body, "a")


def test_namespaces_do_not_matter() -> None:
    for body in (b"<a><b>x</b></a>", b'<a xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><b>x</b></a>',
                 b'<n:a xmlns:n="urn:n"><n:b>x</n:b></n:a>'):  # fmt: skip
        assert xml.text(xml.parse(body, "a"), "b") == "x"


def test_texts_and_numbers_are_what_they_are() -> None:
    root = xml.parse(b"<a><b> x </b><Key> y </Key><c>7</c><d><e/></d><f>-1</f></a>", "a")
    assert (xml.text(root, "b"), xml.text(root, "Key"), xml.number(root, "c")) == ("x", " y ", 7)
    assert (xml.text(root, "g", default="z"), xml.number(root, "g", default=3)) == ("z", 3)
    for path in (("g",), ("b", "g"), ("d",)):
        with pytest.raises(xml.Malformed):
            xml.text(root, *path)
    for name in ("b", "f", "g"):
        with pytest.raises(xml.Malformed):
            xml.number(root, name)
    with pytest.raises(xml.Malformed):
        xml.only(root, ("b", "Key"))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")))
def test_what_is_written_is_read_again(text: str) -> None:
    assert (ElementTree.fromstring(xml.element("a", xml.escape(text))).text or "") == text


def test_what_xml_does_not_have_is_written_by_its_number() -> None:
    assert xml.escape("a\x01<\r\n&\ufffe") == "a&#x1;&lt;&#xD;&#xA;&amp;&#xFFFE;"
