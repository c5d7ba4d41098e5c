#!/usr/bin/env python3
"""Writes quickstart_tokenizer.jsonl and tok_small/: tokenizers and what Hugging Face's own code makes of odd strings.

One JSON a line: text, ids (with special tokens), ids_nospecial, decode_keep = decode(ids_nospecial) with special
tokens kept, decode_skip = decode(ids) with them skipped. The tokenizers of tok_small are trained here on the quickstart's
text and the sentences below; each is built the way one real family builds its tokenizer.json.
"""
import collections
import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
QUICK = os.path.join(HERE, "..", "..", "manifests", "quickstart")
SMALL = os.path.join(HERE, "tok_small")
sys.path.insert(0, QUICK)
import make_text  # noqa: E402

QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
              r"\s*[\r\n]+|\s+(?!\S)|\s+")

ABROAD = """Der Müller trägt zwölf Säcke über die Brücke.|Le boulanger a mangé une crêpe à côté de l'église.|El niño corrió detrás del pingüino.
Kötü hava yüzünden İstanbul'a gidemedik.|Žluťoučký kůň běžel přes louku.|Хлебник продал семь буханок на рынке.|Ο φούρναρης ζει κοντά στο ποτάμι.
面包师住在河边的老房子里。|パン屋は川のそばに住んでいます。|빵집 주인은 강가에 산다.|الخباز يعيش قرب النهر.|האופה גר ליד הנהר.|बेकर नदी के पास रहता है।|คนทำขนมปังอยู่ใกล้แม่น้ำ
Người thợ làm bánh sống gần sông.|Õhtul sadas vihma.|Þetta er gömul brú.|Piekarz mieszka nad rzeką, źle śpi.""".replace("\n", "|").split("|")

EDGES = ["", " ", "  ", "   ", "       ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r", "\r\n", "\r\n\r\n", " \n", "\n ", " \t \n \r\n ", "\x0b\x0c", "a", " a", "a ", "  a  ", "a\tb",
         "a \n b", "a\n\n\nb", "a  b   c    d", "end of line \n", "\n    indented\n        twice\n", "x = {\n\t'k': [1, 2],\n}\n",
         "I'm he's we're they've you'll she'd don't", "I'M HE'S WE'RE THEY'VE YOU'LL SHE'D DON'T", "'s 't 're", "it’s ’tis", "''s", "'ſ", "o'clock rock'n'roll", "'", "''", "a'", "'a",
         "0", "12", "123", "1234", "12345", "123456", "1234567", "1,234,567.89", "-3.5e-10", "2026-11-23 07:05", "½ ¾ ² ³ ①", "Ⅷ ⅷ", "٣٤٥٦ १२३४", "１２３４", "3rd 4th", "a1b2c3", "1a 22b 333c 4444d",
         "!", "!!", "?!?!", "...", "…", "a.b.c", "(a)", "[b]{c}", "<d>", "a, b; c: d.", "$5.00 €6 £7 ¥8", "50%", "#1 @me &co", "x**2 + y**2 == z**2", "a_b__c", "--flag=value", "C:\\dir\\file",
         "http://example.org/a?b=c&d=%20#e", "\\n is not \n", "\"quoted\" ‘single’ “double” «angle»", "– — ― −", "a\u00a0b", "a\u2003b\u3000c", "\u00a0", "\u3000\u3000x", "a\u200bb\u200cc\u200dd", "\u200b",
         "\ufeffmark first", "soft\u00adhyphen", "\u2028line\u2029para\u0085next", "nul\x00in", "\x01\x02\x1f\x7f", "\x80\x9f", "\ufffd", "\uffff", "\U0010ffff", "\ue000\uf8ff",
         "é", "e\u0301", "é e\u0301", "A\u030a Å Å", "o\u0302\u0323 o\u0323\u0302 ộ", "\u0301", " \u0301", "\u0301\u0301\u0301a", "a\u0300\u0301\u0302\u0303\u0304", "ﬁ ﬂ ﬀ", "ß ẞ SS", "İ ı I i", "ǅ ǆ", "ŉ", "Σσς",
         "한글 한글", "が が", "क्षि", "กำ", "ำ", "ⵜⴰⵎⴰⵣⵉⵖⵜ", "ᚠᚢᚦ", "𝒜𝓫𝔠 𝟙𝟚", "𐍈𐌰", "𠮷野家", "㍿ ㈱ ｱｲｳ", "：；，。！？", "中a文b1字2",
         "🙂", "🙂🙂🙂", " 🙂 ", "👍🏽", "👨‍👩‍👧‍👦", "🇫🇮🇳🇴", "🏴\U000e0067\U000e0062\U000e007f", "❤️ ❤", "1️⃣", "☃ snow", "→ ⇒ ∑ ∞ √", "a🙂b", "tail🙂\n",
         "▁", "▁▁", " ▁ a", "▁a▁b", "_", "Ġ", "ĠaĊb", "Âl", "<0x41>", "<0x0A><0xFF>", "<0xZZ>", "##ing", "</w>", "@@",
         "<|begin|>", "<|end|>", "<|begin|><|end|>", "a<|end|>b", "a <|end|> b", " <|begin|> ", "<|begin|>\n<|end|>\n", "<|begin", "|>", "<|begin||>", "<|BEGIN|>", "<<|end|>>", "<|end|><|end|><|end|>",
         "<s>", "</s>", "<unk>", "<s> a </s>", "a<s>b</s>c", "< s >", "<s", "<|endoftext|>", "a<|endoftext|>b", "<|im_start|>user\nhello<|im_end|>\n", "<think>\nno\n</think>", "<pad>x<pad> y <pad>", "a <sep> b<sep>c", "  <sep>   d",
         "town townhall uptown town.", "<town>", "Xtown townX town", "x" * 100, "ab" * 60, " " * 40, "\n" * 20, "a " * 30, "é" * 40, "中" * 30, "🙂" * 12, "-" * 70, "=" * 33 + "\n" + "0" * 25, "aAaA" * 20,
         "the the the the", "THE TOWN HALL", "TheTownHall", "tHe ToWn", "theTown2Hall", "zzzz qqqq", "supercalifragilistic", "Wexdor", "Linminster", "q" + "u" * 9]

ALPHABETS = ["abcdefghij", "ABCXYZ", "0123456789", "'’\"", " \t\n", "  ", ".,;:!?-_", "éüñçøß", "жщя", "αβγ", "中文字", "かなカナ", "한국", "\u0301\u0308\u0323", "🙂👍❤", "١٢٣", "\u200d\ufe0f\u00a0", "ƒ¬†½"]


def fuzz(n):
    r = make_text.Rand(909)
    out = []
    for _ in range(n):
        parts = []
        for _ in range(r.between(1, 12)):
            chars = r.pick(ALPHABETS)
            parts.append("".join(r.pick(chars) for _ in range(r.between(1, 5))))
            if r.chance(20):
                parts.append(r.pick(["'s", "'LL", "<|end|>", "<s>", "<|endoftext|>", " the", "town", "\r\n"]))
        out.append("".join(parts))
    return out


def slices(n):
    r = make_text.Rand(808)
    out = []
    for i in range(n):
        text = make_text.document(4040, i)
        at = r.below(len(text) - 160)
        out.append(text[at:at + r.between(20, 160)])
    return out


def golden(tok, path, texts):
    seen = set()
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        for text in texts:
            if text in seen:
                continue
            seen.add(text)
            ids, bare = tok.encode(text).ids, tok.encode(text, add_special_tokens=False).ids
            f.write(json.dumps({"text": text, "ids": ids, "ids_nospecial": bare, "decode_keep": tok.decode(bare, skip_special_tokens=False),
                                "decode_skip": tok.decode(ids, skip_special_tokens=True)}, ensure_ascii=False, separators=(",", ":")) + "\n")
    print("%s: %d lines, %d bytes" % (os.path.basename(path), len(seen), os.path.getsize(path)))


def corpus():
    return [make_text.document(5050, i) for i in range(300)] + ABROAD * 3


def special(text, **flags):
    return AddedToken(text, special=flags.pop("special", True), normalized=flags.pop("normalized", False), **flags)


def save(tok, name, old_merges):
    """One merge a string, as files before 2024 have it, or a pair."""
    path = os.path.join(SMALL, name + ".json")
    data = json.loads(tok.to_str())
    if old_merges:
        data["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        json.dump(data, f, ensure_ascii=False, indent=1)
        f.write("\n")
    assert os.path.getsize(path) < 60000, path
    return Tokenizer.from_file(path)


def byte_level(pre, vocab):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab, show_progress=False,
                                                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tok


def pieces():
    """Vocabulary and merges as SentencePiece has them: specials, bytes, merged pieces, letters by frequency."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    # the trainer's own choice among equally frequent letters changes from run to run: choose here
    letters = collections.Counter("".join(corpus()).replace(" ", "▁").replace("\n", ""))
    letters = sorted(letters, key=lambda c: (-letters[c], c))[:110]
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=640, show_progress=False, limit_alphabet=len(letters), initial_alphabet=letters))
    data = json.loads(tok.to_str())["model"]
    merges = [tuple(m) for m in data["merges"]] + [("▁", "▁"), ("▁▁", "▁▁"), ("▁▁▁▁", "▁▁▁▁")]
    names = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)] + ["".join(m) for m in merges]
    names += sorted(c for c in data["vocab"] if len(c) == 1)
    vocab = {}
    for name in names:
        vocab.setdefault(name, len(vocab))
    return models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def bos():
    return processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])


def small():
    os.makedirs(SMALL, exist_ok=True)
    made = {}

    tok = Tokenizer(pieces())
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.post_processor = bos()
    tok.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    made["llama2"] = save(tok, "llama2", True)

    tok = Tokenizer(pieces())
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.post_processor = bos()
    tok.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    made["metaspace"] = save(tok, "metaspace", False)

    tok = byte_level(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
                                              pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)]), 600)
    tok.normalizer = normalizers.NFC()
    tok.add_special_tokens([special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")])
    tok.add_tokens([special("<think>", special=False), special("</think>", special=False)])
    made["qwen"] = save(tok, "qwen", False)

    tok = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), 600)
    tok.add_special_tokens([special("<|endoftext|>", normalized=True)])
    made["gpt2"] = save(tok, "gpt2", True)

    tok = byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                              pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]), 600)
    tok.add_special_tokens([special("<|endoftext|>"), special("<pad>", lstrip=True), special("<sep>", rstrip=True)])
    tok.add_tokens([special("town", special=False, single_word=True, normalized=True)])
    made["digits"] = save(tok, "digits", False)

    own = {"llama2": ["<s>", "</s>", "<unk>", "▁", "<0x41>"], "metaspace": ["<s>", "</s>", "▁"]}
    keep = [t for t in EDGES if len(t) < 60]
    for i, (name, tok) in enumerate(sorted(made.items())):
        marked = [t for t in EDGES if "<" in t or "▁" in t or "town" in t]
        texts = marked + keep[i % 2::2] + ABROAD[i % 3::3] + fuzz(60)[i * 12:i * 12 + 12] + slices(20)[i * 4:i * 4 + 4] + own.get(name, [])
        golden(tok, os.path.join(SMALL, name + ".jsonl"), texts)


def main():
    small()
    golden(Tokenizer.from_file(os.path.join(QUICK, "model", "tokenizer.json")), os.path.join(HERE, "quickstart_tokenizer.jsonl"),
           EDGES + ABROAD + fuzz(30) + slices(15))


if __name__ == "__main__":
    main()
