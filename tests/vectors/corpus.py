"""Hand-written text: what the test vocabularies are trained on, and the texts they are tried on.

TRAINING is a small corpus of many scripts, code, digits and whitespace. texts() gives the strings of the
tokenizer vectors: sentences, cases known to go wrong, and seeded random mixtures of characters. Only characters
that Python's own tables know are drawn, so that the oracle's and the engine's tables may be of different age.
"""
# ruff: noqa: E501, RUF001 (the lines are data; look-alike characters are the point)

from __future__ import annotations

import random
import unicodedata

SENTENCES = """
The quick brown fox jumps over the lazy dog. It wasn't what they'd expected, but we're sure she'll say it's fine.
What is the capital of France? The capital of France is Paris, and the capital of Germany is Berlin.
Once upon a time there was a little engine that could; it carried words from one host to another, one by one.
I've seen that you can't always get what you want. HE'S HERE, THEY'RE THERE, I'M NOT, YOU'LL SEE, WE'VE DONE IT.
In 1969, 2001 and 2024 there were 7, 42, 365, 1000, 86400, 123456, 1234567, 12345678 and 123456789 things to count.
Prices: $3.50, 12 345,67 EUR, 1,000,000.00; ratios 3/4, 50%, 1e-5, 0x7fff; versions v1.2.3-rc4; 10:30:59 on 2024-07-26.
Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë au delà des îles, près du mälström.
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Die Straße ist naß, das Mädchen läuft.
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío, añoraba a su querido cachorro. ¿Qué? ¡Olé!
Luís argüia à Júlia que brações, fé, chá, óxido, pôr, zângão eram palavras do português.
Pchnąć w tę łódź jeża lub ośm skrzyń fig. Příliš žluťoučký kůň úpěl ďábelské ódy.
Съешь же ещё этих мягких французских булок да выпей чаю. Столица Франции - Париж, столица России - Москва.
Жебракують філософи при ґанку церкви в Гадячі, ще й шатро їхнє п'яне знаємо.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Η πρωτεύουσα της Γαλλίας είναι το Παρίσι.
דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם עֲלֵיכֶם
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر. عاصمة فرنسا هي باريس. السَّلامُ عَلَيْكُم ١٢٣٤٥
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले विष्णुवतार भगवान श्रीराम। भारत की राजधानी १२३
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน เมืองหลวงของฝรั่งเศสคือปารีส ๑๒๓
いろはにほへとちりぬるを。フランスの首都はパリです。東京は日本の首都であり、とても大きな町です。コンピュータ
我能吞下玻璃而不伤身体。法国的首都是巴黎，德国的首都是柏林。今天天气很好，我们去公园吧。臺灣繁體字
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 프랑스의 수도는 파리입니다.
Tiếng Việt: Phở bò rất ngon, thủ đô của nước Pháp là Paris. Ngày mai trời sẽ mưa.
Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul ile ıhlamur.
ქართული ენა საქართველოს სახელმწიფო ენაა. Հայերեն լեզու. አማርኛ ቋንቋ። தமிழ் மொழி. ভাষা বাংলা।
Emoji: 😀 😃 😄 🎉 🚀 👍 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇫🇷 🇩🇪 ❤️ ☕ ✨ ✓ → ← ∑ ∞ ≠ √ π ½ ² ³ € £ ¥ © ® ™ … – — “quoted” ‘single’ «guillemets»
"""

CODE = """
def main(argv: list[str]) -> int:
    for i, arg in enumerate(argv[1:]):
        if arg == "--help":
            print(f"usage: {argv[0]} [options]")
            return 0
\treturn sum(x ** 2 for x in range(10)) // 3

int main(void) { for (int i = 0; i < 10; ++i) { printf("%d\\n", i); } return 0; }
#include <stdio.h>
const f = async (x) => { await g(x?.y ?? []); return `${x}` !== "" && x >= 0; };
<html><body class="a b">&lt;p&gt;</body></html>
{"key": [1, 2.5, -3e10, null, true], "nested": {"a": "b\\u00e9"}}
SELECT * FROM t WHERE a <> 'b' AND c IS NOT NULL;
https://example.org/path?query=1&b=%20#frag  user@example.com  C:\\Users\\name\\file.txt
"""

TRAINING = SENTENCES * 3 + CODE * 3

EDGE_CASES = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\t\n", "\n \n", " \n", "\n ", "  \n  \n",
    "a", " a", "a ", " a ", "  a", "a  ", "  a  b   c    d", "a\n", "\na", "a\n\nb", "a \n b", "a\tb", "a\r\nb\rc",
    "Hello", " Hello", "Hello world", " Hello world", "Hello World!", "Hello, world!", " Hello, world!",
    "this is 🦙.cpp", "w048 7tuijk dsdfhu", "нещо на Български", "3", "33", "333", "3333", "33333", "333333", "3333333",
    "33333333", "333333333", "3333333333", " 3", "a3b4c5", "3.14159", "1,234,567.89", "٣٣٣٣", "๓๓๓", "½¼¾²³¹", "ⅣⅨ",
    "'s", "'S", "I's", "it's'", "can't won't she'll", "'tis 'twas", "we'VE I'M you'RE he'D", "''s 're'", "'’s",
    "!!!!!!", "......", "?!?!", "-->", "==>", "$$$", "((()))", "a.b,c;d:e", "...a", " ...", " !a", "!\n", "! \n", "!!\r\n\r\n",
    "if (x) {\n\treturn;\n}", "    indented\n        more\n\tback", "x = [1,2,3]  # comment", "trailing   ", "\u00a0", "\u00a0a",
    "a\u00a0b", "\u3000", "\u2003x", "a\u2028b", "\u0085", "a\u0085b", "\u200b", "a\u200bb", "\u200d", "\ufeff", "\ufeffBOM",
    "\u2581", "a\u2581b", "\u2581\u2581", "Ġ", "ĠHello", "Ċ", "<0x41>", "<0x0A>", "<unk>", "\x00", "a\x00b", "\x01\x02\x1f\x7f",
    "é", "e\u0301", "é́", "ö̈", "q\u0323\u0307", "\u0301", "a\u0301\u0302\u0303", "ﬁ ﬀ", "ǅ ǆ", "İ i̇ ı", "ß ẞ", "Ω Ω", "K k",
    "日本語", "日本 語", " 日本語 ", "你好，世界！", "한국어 ", "한국어", "ไทย", "ก็", "नमस्ते", "க்ஷ", "שָׁלוֹם", "السَّلامُ", "‏abc‎",
    "😀", " 😀", "😀😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷🇩🇪", "1️⃣", "❤️", "❤", "a😀b", "🦙🦙🦙", "\U0001f9ff", "𝔘𝔫𝔦", "𠀀𠀁", "\U0010fffd",
    "\ue000", "\ufffd", "\ufdd0", "ÿ", "Ā", "ÀÉÎ", "ñandú", "MiXeD CaSe", "ALLCAPS", "snake_case_name", "camelCaseName",
    "__init__", "a__b", "http://a.b/c?d=e&f", "100%", "C++", "C#", "@user #tag", "tab\tseparated\tvalues", "\\n \\t \\u0041",
    " " * 7, " " * 16 + "x", "\n" * 9, "\t" * 5 + "y", " \t \t ", "a" * 40, "ab" * 30, "1" * 25, "!" * 33, "é" * 20, "漢" * 15,
    "supercalifragilisticexpialidocious", "antidisestablishmentarianism", "Donaudampfschifffahrtsgesellschaft",
]  # fmt: skip

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "ABC xyz 019 .,;:!?'\"-_()[]{}<>/\\|@#$%^&*+=~`",
    " \t\n\r",
    "0123456789",
    "àéîõüçñßœæøåłšžđ",
    "абвгдежзиклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "कखगघचछजझटठडढतथदधनपफबभमयरलवशषसह्ािीुूेैोौं",
    "กขคงจฉชซญดตถทนบปผฝพฟภมยรลวศษสหอฮะาิีึืุู็่้",
    "あいうえおかきくけこアイウエオ日本語中文字典国",
    "가나다라마바사아자차카타파하한국어",
    "😀🎉🚀👍🏽👩‍💻❤️🇫🇷",
    "\u0300\u0301\u0302\u0323\u0327\u200d\u200b\ufe0f",
    "\u00a0\u2002\u2003\u3000\u2028\u0085",
]


def texts(seed: int) -> list[str]:
    """Every text of the vectors, without repeats, in a fixed order."""
    chosen = [line for line in (SENTENCES + CODE).split("\n") if line]
    chosen += EDGE_CASES
    chosen += random_texts(random.Random(seed), 90)
    return list(dict.fromkeys(chosen))


def random_texts(rng: random.Random, count: int) -> list[str]:
    """Half mixtures of the alphabets above, half of any assigned characters."""
    made = []
    for index in range(count):
        pieces = []
        for _ in range(rng.randint(1, 8)):
            if index % 2:
                alphabet = rng.choice(ALPHABETS)
                pieces.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 6))))
            else:
                pieces.append(any_character(rng))
                pieces.append(rng.choice(["", "", " ", "a", "1", "\n"]))
        made.append("".join(pieces))
    return made


def any_character(rng: random.Random) -> str:
    ceiling = rng.choice([0x80, 0x800, 0x3000, 0x10000, 0x20000])
    while True:
        character = chr(rng.randrange(ceiling))
        if unicodedata.category(character) not in ("Cn", "Cs", "Co"):
            return character
