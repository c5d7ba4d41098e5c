#!/usr/bin/env python3
"""Writes the quickstart's text: a small invented world told in plain English.

    make_text.py                      calib.jsonl and held.jsonl beside this file
    make_text.py --train FILE [N]     N documents for train.py (default 16000); never committed

Everything comes from the word lists below and from a counter-based generator of our own, so the
bytes do not depend on the Python version. The facts of the world (which land has which capital,
what an animal eats) hang on WORLD alone and hold in every document; names, numbers and turns of
phrase hang on the document. A model must therefore remember rare facts in its weights and carry
names and sums across a document: both are what coarse weights lose first.
"""
import json
import os
import sys

WORLD, TRAIN, CALIB, HELD = 7, 101, 202, 303
MASK = (1 << 64) - 1


class Rand:
    """splitmix64"""

    def __init__(self, *seed):
        self.s = 0
        for part in seed:
            self.s = (self.next() ^ (part * 0x9E3779B97F4A7C15)) & MASK

    def next(self):
        self.s = (self.s + 0x9E3779B97F4A7C15) & MASK
        z = self.s
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n

    def between(self, a, b):
        return a + self.below(b - a + 1)

    def chance(self, percent):
        return self.below(100) < percent

    def pick(self, seq):
        return seq[self.below(len(seq))]

    def rare(self, seq):
        """Early entries often, late ones seldom."""
        return seq[self.below(self.below(len(seq)) + 1)]

    def shuffled(self, seq):
        out = list(seq)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out

    def some(self, seq, n):
        return self.shuffled(seq)[:n]


SHE = "Mara Lena Ida Nora Tilda Ruth Hanna Vera Elin Sonja Greta Wilma Petra Olive Ingrid Dorothea Philippa Xenia".split()
HE = "Otto Jonas Karl Emil Hugo Peter Anton Felix Ruben Oskar Viktor Bruno Lars Mattis Gregor Leopold Ambrose Quentin".split()
JOBS = ("baker miller farmer fisher teacher smith tailor gardener carpenter doctor shepherd painter mason "
        "weaver cobbler clockmaker ferryman beekeeper lamplighter glassblower locksmith bookbinder").split()
TOOLS = dict(zip(JOBS, ("an oven", "a millstone", "a plough", "a net", "a blackboard", "an anvil", "a needle", "a spade", "a saw",
                        "a stethoscope", "a crook", "a brush", "a trowel", "a loom", "a last", "a tiny screwdriver", "an oar",
                        "a smoker", "a long ladder", "a blowpipe", "a pick", "a press")))
PLACES = ("market square|old bridge|mill|school|harbour|forest|church tower|bakery|river bank|town hall|orchard|railway station|"
          "library|lighthouse|stone quarry|windmill hill|covered well|glass house|northern gate|observatory").split("|")
GOODS = ("apple|loaf|egg|candle|book|basket|lamp|coin|button|pear|blanket|kettle|rope|hammer|lantern|teapot|violin|"
         "compass|umbrella|telescope").split("|")
PLURAL = {"loaf": "loaves", "loaves": "loaves", "compass": "compasses", "fox": "foxes", "goose": "geese", "mouse": "mice",
          "sheep": "sheep", "lynx": "lynxes", "finch": "finches", "wolf": "wolves", "fly": "flies"}
COLOURS = "red blue green yellow white black grey brown golden silver purple crimson turquoise ivory".split()
MATERIALS = "wood|iron|clay|glass|wool|copper|leather|silver|paper|marble".split("|")
SIZES = "small big old new little heavy broken round tiny enormous narrow crooked".split()
MOODS = "happy tired proud sad angry curious hungry cheerful worried grateful jealous bewildered".split()
WEATHER = ("sunny|rainy|cloudy|windy|foggy|snowy|stormy|frosty|misty|sultry").split("|")
SKY = {"sunny": "The sky was clear and everyone sat outside.", "rainy": "Water ran down the streets and filled the barrels.",
       "cloudy": "Grey clouds hung over the roofs all day.", "windy": "Hats flew off and the windmill turned fast.",
       "foggy": "Nobody could see from one side of the bridge to the other.", "snowy": "The children built a snowman by the well.",
       "stormy": "Thunder rolled over the hills and the boats stayed in the harbour.",
       "frosty": "Thin ice covered the puddles until noon.", "misty": "A white veil lay over the meadows.",
       "sultry": "The dogs slept in the shade and the milk turned sour."}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
SEASON = ["winter"] * 2 + ["spring"] * 3 + ["summer"] * 3 + ["autumn"] * 3 + ["winter"]
UNITS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
         "eighteen nineteen").split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ANIMALS = ("dog cat horse cow sheep goat hen goose fox hare owl mouse hedgehog badger otter heron beaver squirrel wolf lynx "
           "marten kestrel salamander bittern polecat dormouse stoat lapwing curlew nightjar").split()
FOODS = ("grass|seeds|fish|insects|roots|berries|nuts|worms|leaves|frogs|mushrooms|acorns|bark|snails|mice").split("|")
HOMES = ("barn|forest|river|meadow|marsh|hedge|hollow tree|mountains|reeds|cellar|sand dunes|burrow").split("|")
CRIES = ("barks|meows|hums|whistles|hisses|croaks|chirps|growls|squeaks|hoots|clicks|rattles").split("|")
LAND_A = "Vel Tor Mar Oss Kal Bren Lun Dra Sil Ost Har Fen Gal Ulm Zed Pern Quil Yar Wex Nor".split()
LAND_B = "ania dor mark land onia este heim ova una wick".split()
CITY_A = "Hal Ber Stav Lin Mor Gren Tal Ros Ebb Kest Wal Dun Ash Fal Ivo Tre Oxe Pol Rav Sund".split()
CITY_B = "berg ford stad mouth ton burg haven vik field minster".split()
RIVERS = "Aldra Senn Morva Tiss Orle Ketta Ilm Brava Lorne Vashti Ouse Nemmer Dwina Zelle".split()
CROPS = "wheat wool timber salt wine honey iron cheese amber copper paper silk pepper tin coal porcelain".split()


def world():
    r = Rand(WORLD)
    lands = [a + b for a in LAND_A for b in LAND_B]
    cities = [a + b for a in CITY_A for b in CITY_B]
    lands, cities = r.some(lands, 60), r.some(cities, 60)
    facts = []
    for land, city in zip(lands, cities):
        facts.append({"land": land, "city": city, "river": r.pick(RIVERS), "crop": r.pick(CROPS), "year": 900 + r.below(900),
                      "flag": r.some(COLOURS, 2), "side": r.pick(["north", "south", "east", "west"])})
    beasts = {a: {"food": r.some(FOODS, 2), "home": r.pick(HOMES), "cry": r.pick(CRIES), "young": 1 + r.below(8)} for a in ANIMALS}
    keepers = r.shuffled(SHE + HE)
    town = {j: {"who": keepers[i], "place": PLACES[i % len(PLACES)]} for i, j in enumerate(JOBS)}
    return facts, beasts, town


FACTS, BEASTS, TOWN = world()


def number(n):
    if n < 20:
        return UNITS[n]
    if n < 100:
        return TENS[n // 10] + ("-" + UNITS[n % 10] if n % 10 else "")
    return UNITS[n // 100] + " hundred" + (" and " + number(n % 100) if n % 100 else "")


def plural(word):
    return PLURAL.get(word, word + "s")


def count(n, word):
    return number(n) + " " + (word if n == 1 else plural(word))


def a(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def cap(text):
    return text[0].upper() + text[1:]


def listing(words):
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def person(r):
    if r.chance(50):
        return r.rare(SHE), "she", "her", "her"
    return r.rare(HE), "he", "his", "him"


def two(r):
    one = person(r)
    while True:
        other = person(r)
        if other[0] != one[0]:
            return one, other


def story(r):
    (n, he, his, him), (m, he2, his2, him2) = two(r)
    job, good, place, far = r.rare(JOBS), r.rare(GOODS), r.rare(PLACES), r.rare(PLACES)
    look, mood, sky = r.rare(r.some([COLOURS, SIZES], 1)[0]), r.rare(MOODS), r.rare(WEATHER)
    thing = look + " " + good
    start = r.pick(["Once there was %s called %s." % (a(job), n), "%s was %s who lived near the %s." % (n, a(job), place),
                    "Long ago %s worked as %s by the %s." % (n, a(job), place), "In a small town lived %s, %s." % (n, a(job))])
    out = [start, "Every day %s took %s to the %s." % (he, TOOLS[job], place)]
    out.append(r.pick(["One %s morning %s found %s under a stone." % (sky, he, a(thing)),
                       "On a %s day in %s, %s lost %s %s on the way to the %s." % (sky, r.pick(MONTHS), he, his, thing, far),
                       "One %s evening %s bought %s from a stranger for %s." % (sky, he, a(thing), count(r.between(2, 30), "coin"))]))
    if "lost" in out[-1]:
        out.append(r.pick(["%s looked everywhere, but the %s was gone." % (cap(he), good), "Without the %s %s felt %s." % (good, he, mood)]))
        out.append("Then %s, %s, came from the %s." % (m, r.pick(["an old friend", "a neighbour", "the " + r.rare(JOBS)]), far))
        out.append('"%s," said %s.' % (r.pick(["I saw %s by the %s" % (a(thing), far), "A %s ran away with your %s" % (r.rare(ANIMALS), good),
                                               "Your %s is at the %s" % (good, far)]), m))
        out.append(r.pick(["Together they went to the %s and there lay the %s." % (far, thing),
                           "%s thanked %s and ran to the %s as fast as %s could." % (n, him2, far, he)]))
        out.append("That night %s gave %s %s, because %s had helped %s." % (n, m, a(r.rare(GOODS)), he2, him))
    else:
        out.append(r.pick(['"What can I do with %s?" asked %s.' % (a(thing), n), "%s had never seen such %s." % (cap(he), a(thing))]))
        out.append("%s carried the %s home and hid it in %s." % (cap(he), good, r.pick(["a box of " + r.rare(MATERIALS), "the cellar", "the " + r.rare(PLACES)])))
        out.append("But %s saw it and wanted the %s too." % (m, good))
        out.append(r.pick(["So %s cut %s of %s for %s, and both were %s." % (n, a("second " + good), r.rare(MATERIALS), m, mood),
                           "So %s sold the %s to %s for %s." % (n, good, him2, count(r.between(2, 60), "coin")),
                           "So they agreed that %s would keep the %s on %s and %s on %s." % ((n, good) + tuple(x for x in (r.pick(DAYS[:3]), m, r.pick(DAYS[3:]))))]))
    out.append(r.pick(["From that day on, %s and %s were friends." % (n, m), "And %s never forgot the %s %s." % (n, look, good),
                       "Since then %s goes to the %s only when it is %s." % (n, far, r.pick(WEATHER))]))
    return " ".join(out)


def land(r):
    f = r.rare(FACTS)
    turns = [["The capital of %s is %s." % (f["land"], f["city"]), "%s, on the river %s, is the capital of %s." % (f["city"], f["river"], f["land"])],
             ["The river %s flows through %s." % (f["river"], f["city"]), "Through %s flows the %s." % (f["land"], f["river"])],
             ["%s sells %s to its neighbours." % (f["land"], f["crop"]), "Its people live from %s." % f["crop"]],
             ["%s was founded in the year %d." % (f["city"], f["year"]), "The oldest house in %s was built in %d." % (f["city"], f["year"])],
             ["Its flag is %s and %s." % tuple(f["flag"]), "The flag of %s shows %s and %s." % (f["land"], f["flag"][0], f["flag"][1])],
             ["Most people live in the %s of the land." % f["side"], "The %s of %s is full of towns." % (f["side"], f["land"])]]
    return " ".join(r.pick(t) for t in [turns[0]] + r.some(turns[1:], r.between(2, 5)))


def beast(r):
    n = r.rare(ANIMALS)
    b = BEASTS[n]
    turns = [["%s eats %s and %s." % (cap(a(n)), b["food"][0], b["food"][1]), "%s like %s, but they also eat %s." % (cap(plural(n)), b["food"][0], b["food"][1])],
             ["The %s lives in the %s." % (n, b["home"]), "You can find %s in the %s." % (plural(n), b["home"])],
             ["When it is afraid, the %s %s." % (n, b["cry"]), "At night the %s %s." % (n, b["cry"])],
             ["In spring it has %s." % ("one young" if b["young"] == 1 else number(b["young"]) + " young"),
              "%s raise %s young each year." % (cap(plural(n)), number(b["young"]))]]
    return " ".join(r.pick(t) for t in r.shuffled(turns)[:r.between(3, 4)])


def trade(r):
    j = r.rare(JOBS)
    t = TOWN[j]
    return " ".join(r.some(["The %s of our town is %s." % (j, t["who"]), "%s the %s works near the %s." % (t["who"], j, t["place"]),
                            "%s %s needs %s." % (cap(a(j)).split()[0], j, TOOLS[j]), "If you look for %s, go to the %s." % (t["who"], t["place"])], 3))


def sums(r):
    (n, he, his, him), (m, he2, _, him2) = two(r)
    g = r.rare(GOODS)
    x = r.between(2, 20)
    out = ["%s has %s." % (n, count(x, g))]
    for _ in range(r.between(2, 4)):
        if r.chance(50) or x < 3:
            y = r.between(1, 12)
            out.append(r.pick(["%s gives %s %s more." % (m, him, number(y)), "%s finds %s more at the %s." % (cap(he), number(y), r.rare(PLACES))]))
            x += y
        else:
            y = r.between(1, x - 1)
            out.append(r.pick(["%s sells %s of them to %s." % (cap(he), number(y), m), "%s gives %s to %s." % (cap(he), number(y), m), "%s of them %s lost on %s." % (
                cap(number(y)), "is" if y == 1 else "are", r.pick(DAYS))]))
            x -= y
        out.append(r.pick(["Now %s has %s." % (n, count(x, g)), "Now there %s %s." % ("is" if x == 1 else "are", count(x, g))]))
    return " ".join(out)


def ledger(r):
    rows = r.some(GOODS, r.between(3, 5))
    total, out = 0, ["Accounts of %s, %d %s:" % (person(r)[0], r.between(1, 28), r.pick(MONTHS))]
    for g in rows:
        n, price = r.between(1, 9), r.between(1, 9)
        total += n * price
        out.append("- %d %s at %d = %d" % (n, g if n == 1 else plural(g), price, n * price))
    return "\n".join(out + ["Total: %d coins." % total])


def log(r):
    day, m = r.below(7), r.below(12)
    date = r.between(1, 20)
    out = ["Weather in %s, %s." % (r.pick(["town", "the valley"]), SEASON[m])]
    for i in range(r.between(3, 5)):
        w = r.rare(WEATHER)
        out.append("%s, %d %s: %s, %d degrees. %s" % (DAYS[(day + i) % 7], date + i, MONTHS[m], w,
                                                     {"winter": 0, "spring": 9, "summer": 20, "autumn": 8}[SEASON[m]] + r.below(9), SKY[w]))
    return "\n".join(out)


def quiz(r):
    out = []
    for _ in range(r.between(3, 6)):
        k = r.below(7)
        f, n, j = r.rare(FACTS), r.rare(ANIMALS), r.rare(JOBS)
        if k == 0:
            q, x = "What is the capital of %s?" % f["land"], "The capital of %s is %s." % (f["land"], f["city"])
        elif k == 1:
            q, x = "Which river flows through %s?" % f["city"], "The %s." % f["river"]
        elif k == 2:
            q, x = "What does %s eat?" % a(n), "%s and %s." % (cap(BEASTS[n]["food"][0]), BEASTS[n]["food"][1])
        elif k == 3:
            q, x = "Where does the %s live?" % n, "In the %s." % BEASTS[n]["home"]
        elif k == 4:
            q, x = "Who is the %s of our town?" % j, "It is %s." % TOWN[j]["who"]
        elif k == 5:
            p, s = r.between(2, 40), r.between(2, 40)
            q, x = "What is %d plus %d?" % (p, s), "%d plus %d is %d." % (p, s, p + s)
        else:
            d = r.below(7)
            q, x = "Which day comes after %s?" % DAYS[d], "After %s comes %s." % (DAYS[d], DAYS[(d + 1) % 7])
        out += ["Q: " + q, "A: " + x]
    return "\n".join(out)


def letter(r):
    (n, he, his, him), (m, _, _, _) = two(r)
    f, g, w = r.rare(FACTS), r.rare(GOODS), r.rare(WEATHER)
    out = ["Dear %s,\n" % m, r.pick(["I am writing to you from %s." % f["city"], "It has been %s in %s all week." % (w, f["city"])]),
           r.pick(["The %s is wide here and the market is full of %s." % (f["river"], f["crop"]), "In %s everyone trades in %s." % (f["land"], f["crop"])]),
           r.pick(["Do you still have the %s %s that I gave you?" % (r.rare(COLOURS), g), "Please send me %s, for mine is broken." % a(g),
                   "I don't need the %s any more; you can keep it." % g]),
           r.pick(["I'll be home on %s, and then we'll go to the %s." % (r.pick(DAYS), r.rare(PLACES)),
                   "Don't forget to feed the %s; it's fond of %s." % ((lambda q: (q, BEASTS[q]["food"][0]))(r.rare(ANIMALS)))]),
           "\nYours,\n%s" % n]
    return " ".join(out[:1] + out[1:-1]).replace(",\n ", ",\n") + out[-1]


def talk(r):
    (n, he, his, him), (m, he2, his2, him2) = two(r)
    place, animal, g = r.rare(PLACES), r.rare(ANIMALS), r.rare(GOODS)
    h = r.between(1, 11)
    out = ["%s met %s at the %s." % (n, m, place),
           '"%s, %s," said %s.' % (r.pick(["Good morning", "Hello", "Good evening"]), m, n),
           '"%s, %s," answered %s.' % (r.pick(["Good day", "Hello", "How are you"]), n, m),
           '"Have you seen my %s? It %s when it is afraid," said %s.' % (animal, BEASTS[animal]["cry"], n),
           r.pick(['"%s like the %s. Look there," said %s.' % (cap(plural(animal)), BEASTS[animal]["home"], m),
                   '"No, but I\'ve seen %s near the %s," said %s.' % (a(r.rare(COLOURS) + " " + g), r.rare(PLACES), m)]),
           "The clock struck %s, and %s later it struck %s." % (number(h), r.pick(["an hour", "sixty minutes"]), number(h + 1)),
           r.pick(["Then %s went home with %s %s." % (n, his, animal), "%s was %s, so %s went home." % (m, r.rare(MOODS), he2)])]
    return " ".join(out)


def saying(r):
    g, w, n = r.rare(GOODS), r.rare(WEATHER), r.rare(ANIMALS)
    return r.pick(["They say that whoever keeps %s will never be %s." % (a(g), r.rare(MOODS)),
                   "When the %s %s, it will be %s on %s." % (n, BEASTS[n]["cry"], w, r.pick(DAYS)),
                   "A %s of %s is worth %s of %s." % (g, r.rare(MATERIALS), number(r.between(2, 12)), r.rare(MATERIALS)),
                   "%s is older than %s, but %s is taller." % tuple((lambda p, q: (p[0], q[0], q[0]))(*two(r))),
                   "In %s the days are %s and the fields are %s." % (lambda m: (MONTHS[m], "short" if SEASON[m] == "winter" else "long",
                                                                             {"winter": "white", "spring": "green", "summer": "yellow", "autumn": "brown"}[SEASON[m]]))(r.below(12))])


KINDS = [(story, 26), (land, 16), (beast, 12), (trade, 6), (sums, 12), (ledger, 4), (log, 6), (quiz, 9), (letter, 8), (talk, 9), (saying, 6)]


def document(seed, i):
    r = Rand(seed, i)
    parts, goal = [], r.between(440, 1060)
    while sum(map(len, parts)) < goal:
        at = r.below(sum(w for _, w in KINDS))
        for kind, weight in KINDS:
            if at < weight:
                break
            at -= weight
        parts.append(kind(r))
    return "\n\n".join(parts)


def write(path, seed, n, limit):
    size = written = 0
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        for i in range(n):
            line = json.dumps({"text": document(seed, i)}, ensure_ascii=False) + "\n"
            if size + len(line.encode()) > limit:
                break
            size, written = size + len(line.encode()), written + 1
            f.write(line)
    print("%s: %d documents, %d bytes" % (os.path.basename(path), written, size))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    if len(sys.argv) > 2 and sys.argv[1] == "--train":
        write(sys.argv[2], TRAIN, int(sys.argv[3]) if len(sys.argv) > 3 else 16000, 1 << 40)
        return
    write(os.path.join(here, "calib.jsonl"), CALIB, 250, 250000)
    write(os.path.join(here, "held.jsonl"), HELD, 60, 60000)


if __name__ == "__main__":
    main()
