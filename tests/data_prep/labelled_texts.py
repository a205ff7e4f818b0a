"""The texts of the labelled set of redaction: see ``make_labelled`` for how a line is read."""

from __future__ import annotations

# Forms of values, one a line: # a digit, § a letter or digit, ¤ hexadecimal, ¥ upper case, | a new line.
FILLERS = {
    "phone.us": """
(20#) 5##-####
41#-7##-####
30#.4##.####
1-91#-6##-####
+1 212 5## ####
+16467######
+1 (31#) 8##-####
51# 4## ####
""",
    "phone.gb": """
077## ######
079########
+44 78## ######
+44 (0)20 79## ####
020 7### ####
(0161) 4## ####
0044 77## ######
07### ### ###
""",
    "phone.de": """
0151 ########
0176/########
0172-#######
+49 160 #######
+49 (0)30 ########
030 / ## ## ## ##
0049 172 #######
089 #######
01512#######
0175 ## ## ## #
""",
    "phone.fr": """
06 ## ## ## ##
06.##.##.##.##
+33 6 ## ## ## ##
+33 (0)7 8# ## ## ##
0612######
01 42 ## ## ##
""",
    "phone.es": """
6## ### ###
+34 6## ## ## ##
91 5## ## ##
6## ## ## ##
""",
    "phone.it": """
+39 347 #######
333 ### ####
348 #######
+39 06 ########
""",
    "phone.zz": """
+31 6 ########
+41 79 ### ## ##
+43 664 #######
+46 70-### ## ##
+48 60# ### ###
+55 11 9####-####
+91 98### #####
+81 90-####-####
+86 138 #### ####
+7 916 ###-##-##
+90 532 ### ## ##
+61 4## ### ###
""",
    "email": """
{first}.{last}@gmail.com
{first}##@example.org
{first}_{last}@mail.example.co.uk
{first}+shop@example.com
{First}.{Last}@Example.DE
{last}@uni-beispiel.de
{last}@posteo.example
{first}-{last}#@icloud.example
j.{last}@firma-{last}.example.ch
""",
    "email.odd": """
{first} at gmail dot com
{first}.{last} (at) web.de
{first} [at] example [dot] org
{first}##(at)example.net
{first}.{last}[at]posteo.de
{first}## AT yahoo DOT com
""",
    "address.en": """
1## {way.en}
#7 {way.en}, Apt #B
42 {way.en}, {city.en}
#1A {way.en}, {city.en}
Flat #, 1# {way.en}, {city.en}
1#2 N {way.en}, Unit 3#, {city.en}
2### {way.en}, Suite 10#
9 {way.en}|{city.en}
""",
    "way.en": """
Maple Street
Elm St
Kingsland Road
Harper's Lane
Old Mill Rd
Bishop Avenue
Oakridge Drive
Cherry Tree Close
Martin Luther King Blvd
West 4#th Street
5th Ave
St. John's Court
""",
    "city.en": """
Springfield, IL 62704
Bristol BS1 4DJ
London SE1 7PB
Austin, TX 78701
Portland OR 97205
Leeds LS2 9JT
""",
    "address.low": """
1#7 maple street
#2 elm st
2## kingsland road
3#4 oakridge ave
14 bishop rd
""",
    "address.de": """
{way.de} 1#
{way.de} #7a
{way.de} #, {city.de}
{way.de} 1# b, {city.de}
{way.de} 12#|{city.de}
Am Alten Markt #, {city.de}
An der Mühle 1#, {city.de}
""",
    "way.de": """
Gartenstraße
Lindenstrasse
Hauptstr.
Goetheweg
Schillerplatz
Bahnhofstraße
Rosengasse
Frankfurter Allee
Leipziger Str.
Theodor-Heuss-Ring
Lange Straße
Karl-Marx-Straße
""",
    "city.de": """
10115 Berlin
80331 München
20095 Hamburg
8001 Zürich
1010 Wien
04109 Leipzig
D-60311 Frankfurt am Main
""",
    "address.fr": """
1# {way.fr}
#4 {way.fr}, {city.fr}
3 bis, {way.fr}, {city.fr}
1#, {way.fr}
#8 ter {way.fr} {city.fr}
""",
    "way.fr": """
rue de la Paix
avenue Victor Hugo
boulevard des Lilas
av. du Général Leclerc
rue de l'Église
quai Jean Jaurès
impasse Saint-Michel
chemin des Vignes
""",
    "city.fr": """
75011 Paris
69003 Lyon
33000 Bordeaux
13006 Marseille
""",
    "address.es": """
{way.es} 1#
{way.es}, #7, {city.es}
{way.es}, nº 1#, 3º B, {city.es}
{way.es} 4#, 2º izq
{way.es} 8# {city.es}
""",
    "way.es": """
Calle de Alcalá
C/ Mayor
calle San Juan
Avda. Gran Capitán
Avenida de los Olivos
Plaza del Carmen
Paseo de la Castellana
""",
    "city.es": """
28013 Madrid
08002 Barcelona
41001 Sevilla
46001 Valencia
""",
    "address.it": """
{way.it} 1#
{way.it}, #7
{way.it} 2#, {city.it}
{way.it} 4#/B, {city.it}
{way.it} n. 1#
""",
    "way.it": """
via Garibaldi
via dei Mille
Via Giuseppe Verdi
viale della Repubblica
Piazza Roma
Corso Vittorio Emanuele
via XX Settembre
""",
    "city.it": """
00184 Roma
20121 Milano
50122 Firenze FI
10121 Torino (TO)
""",
    "address.box": """
P.O. Box 4##
PO Box 1##, Springfield, IL 62704
Postfach 10 2# 30, 50667 Köln
Apartado de correos ##7
Casella postale 2##, 20121 Milano
""",
    "ip.v4": """
82.165.4#.1##
203.0.113.2#
91.12.2#.4#
192.168.178.2#
10.0.4.1##
185.220.101.#
172.16.#.2#
""",
    "ip.v6": """
2001:db8:85a3::8a2e:370:7¤¤4
2a02:8109:9a40:1b¤¤:7c1e:a#¤¤:1¤¤¤:2¤¤¤
fe80::1c#¤:c7ff:fe2#:4#¤¤
2a01:4f8:c0c:9#¤¤::1
2600:1700::a#¤¤
""",
    "url": """
https://app.example.com/reset?token=§§§§§§§§§§§§§§§§§§§§§§§§
https://nora:Gurke2#@git.example.org/notes.git
https://chat.whatsapp.com/§§§§§§§§§§§§§§§§§§§§§§
https://discord.gg/§§§§§§§§
https://t.me/+§§§§§§§§§§§§§§§§
https://docs.google.com/document/d/1§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§/edit?usp=sharing
https://us02web.zoom.us/j/8#########?pwd=§§§§§§§§§§§§§§§§§§§§§§§§
https://www.dropbox.com/s/1¤¤¤¤¤¤¤¤¤¤¤¤¤7/holiday.zip?dl=0
https://photos.app.goo.gl/§§§§§§§§§§§§§§§§§
https://hooks.slack.com/services/T¥¥¥¥¥¥¥¥/B¥¥¥¥¥¥¥¥/§§§§§§§§§§§§§§§§§§§§§§§§
https://example.net/invite/§§§§§§§§§§
postgres://nora:¤¤¤¤¤¤¤¤@db.example.com:5432/shop
https://we.tl/t-§§§§§§§§§§
https://shop.example.com/orders?id=12&access_token=§§§§§§§§§§§§§§§§§§
https://example.org/verify-email/¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤
https://1drv.ms/u/s!A§§§§§§§§§§§§§§§§§§§§§§
https://calendar.google.com/calendar/ical/nora%40example.com/private-¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤/basic.ics
https://s3.example.com/b/scan.pdf?X-Amz-Expires=600&X-Amz-Signature=¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤
https://example.com/unsubscribe?u=#####&sig=§§§§§§§§§§§§
https://meet.google.com/abc-mnop-xyz
https://my.example.org/magic-link/§§§§§§§§§§§§§§§§§§§§§§§§§§
https://deploy:§§§§§§§§§§§§@registry.example.com/v2/
""",
    "url.bare": """
chat.whatsapp.com/§§§§§§§§§§§§§§§§§§§§§§
discord.gg/§§§§§§§§
zoom.us/j/9##########?pwd=§§§§§§§§§§§§
t.me/joinchat/§§§§§§§§§§§§§§§§
""",
    "key": """
sk-§§§§§§§§§§§§§§§§§§§§T3BlbkFJ§§§§§§§§§§§§§§§§§§§§
sk-proj-§§§§§§§§§§§§§§§§§§§§-§§§§§§§§§§§§§§§§§§§§§§§
ghp_§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§
github_pat_11§§§§§§§§§§§§§§§§§§§§_§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§
glpat-§§§§§§§§§§§§§§§§§§§§
xoxb-############-#############-§§§§§§§§§§§§§§§§§§§§§§§§
AKIA¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥¥
AIzaSy§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§
hf_§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§
npm_§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§
pypi-AgEIcHlwaS5vcmc§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§
eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI§§§§§§§§§§§§§§§§§§.§§§§§§§§§§§§§§§§§§§§§§§§§§-§§§§§§§§§§§§§§§§
""",
    "key.long": """
¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤
¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤
¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤¤
§§§§§§§§§§§§§§§§§§§§§§/§§§§§§§§+§§§§§§§§§§=
§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§§
§§§§§§§§§§§§_§§§§§§§§§§§§§§§§-§§§§§§§§§§§
""",
    "key.pem": """
-----BEGIN {pem}PRIVATE KEY-----|{b64}|{b64}|§§§§§§§§§§§§§§§§==|-----END {pem}PRIVATE KEY-----
-----BEGIN OPENSSH PRIVATE KEY-----|{b64}|{b64}|{b64}|-----END OPENSSH PRIVATE KEY-----
""",
    "pem": "RSA ",
    "b64": "§§§§§§§§§§§§§§§§/§§§§§§§§§§§§§§§§§§§§§§§§§§+§§§§§§§§§§§§§§§§§§§§",
    "key.word": """
Sommer20##!
hunter2##
Tr0ub4dor&#
katze####
qwErty!##
p@ssw0rd##
B4nanen$plit
xK9#vLq2
""",
    "coord": """
52.5###,13.4###
48.85####, 2.29####
-33.8###, 151.2###
40.71##, -74.00##
51.50##°N, 0.12##°W
41°24'12.#"N 2°10'26.#"E
52.5##1 13.40##5
N 47.37##, E 8.54##
""",
    "coord.plain": """
52.5###,13.4###
-22.9#####,-43.1#####
35.67####,139.65####
40.7###,-73.9###
""",
    "n": "#\n1#\n2#\n9#",
    "nn": "1##\n2##\n7##",
    "k": "1,###\n4,9##\n2.5##\n12,###",
    "year": "198#\n199#\n2009\n201#\n202#",
    "time": "1#:3#\n0#:15\n2:4#pm\n7:0#",
    "price": "$1#.99\n€2#,50\n£#.75\n1##,90 €\n$1,2##\n#9 CHF",
    "date": "0#.11.202#\n1#/0#/201#\n202#-0#-1#\n2#.12.2#\n0#-0#-199#",
    "version": "3.1#.#\n1.2.3.#\n10.0.1#.#\n2.#.0.1",
    "order": "302-44#####-77##### \n2023-00######\n#99####",
    "long": "1000000000000\n3.14159265358979\n123456789\n0101101001011010\n99999999999\n31536000000",
}

TEXTS = {
    "NAME": """
did you see <NAME: Anna> today?
<NAME: Anna Schmidt> says hi
lol <NAME: anna>'s dog ate it again
Kommst du mit zu <NAME: Anna>s Party?
ask <NAME: José>, he knows
<NAME: Jose Garcia Marquez> just joined the team
I think <NAME: Will> is late again
<NAME: Will>'s car broke down
tell <NAME: Mark> to call me
me and <NAME: May> went shopping
<NAME: Rose>, are you there?
met <NAME: Art> at the gallery
hey <NAME: Juergen>, alles klar?
<NAME: Jürgen> hat gestern abgesagt
Ich hab <NAME: Groß> noch nie so lachen sehen
<NAME: zoe> is typing...
<NAME: ZOË> OMG!!!
pour <NAME: Jean-Pierre> c'est bon
<NAME: Siobhan O'Malley> sent the slides
<NAME: Priya>: running late
ça va <NAME: Łukasz>?
you know <NAME: lukasz wojcik>, the tall one
<NAME: Олег> уже дома
明日<NAME: 田中>さんと会う
我和<NAME: 王小明>去吃饭
오늘 <NAME: 민준>이랑 영화 봤어
<NAME: xX_dragonfly_Xx> gg wp
@<NAME: kathi_93> look at this
no way <NAME: big dave> won the raffle
<NAME: Tobi> und ich sind schon da
""",
    "PHONE": """
call me on <PHONE phone.us> when you land
my new number is <PHONE phone.us>
hey its josh, this is my new cell <PHONE phone.us>, delete the old one
Office: <PHONE phone.us> ext. 12
text <PHONE phone.us>
ring the landlord, <PHONE phone.gb>
Mum's mobile is <PHONE phone.gb> in case
whatsapp me <PHONE phone.gb> x
give us a bell on <PHONE phone.gb>!
Meine neue Nummer: <PHONE phone.de>
ruf an unter <PHONE phone.de>, bin bis 18 Uhr da
Tel. <PHONE phone.de>
erreichst mich unter <PHONE phone.de> oder per mail
Notfallnummer von Oma <PHONE phone.de>
appelle-moi au <PHONE phone.fr> stp
mon numéro c'est le <PHONE phone.fr>
tél : <PHONE phone.fr>
mi número es <PHONE phone.es>
llámame al <PHONE phone.es>, porfa
il mio numero è <PHONE phone.it>
chiamami al <PHONE phone.it>
the driver is <PHONE phone.zz>, send him the pin
<PHONE phone.zz>
contact: <PHONE phone.zz> (signal)
he wrote from <PHONE phone.zz> last time
номер водителя <PHONE phone.zz>
""",
    "EMAIL": """
my email is <EMAIL email>
send it to <EMAIL email> please
schreib mir an <EMAIL email>, danke
<EMAIL email>
cc <EMAIL email>, <EMAIL email>
you can paypal me at <EMAIL email>!
From: "Some One" <<EMAIL email>>
mon adresse mail : <EMAIL email>.
mi correo: <EMAIL email>
mailto:<EMAIL email>?subject=hi
it's <EMAIL email> (all lowercase)
login is <EMAIL email> and you know the rest
reach me under <EMAIL email.odd>
my address is <EMAIL email.odd>
mail an <EMAIL email.odd> bitte
zoom account=<EMAIL email>;plan=pro
icloud:<EMAIL email>
did <EMAIL email> bounce for you too?
""",
    "ADDRESS": """
I live at <ADDRESS address.en>
come over, it's <ADDRESS address.en>
ship it to <ADDRESS address.en>
new address: <ADDRESS address.en>
the party is at <ADDRESS address.en>!
pick me up at <ADDRESS address.low>
im at <ADDRESS address.low> rn
Ich wohne in der <ADDRESS address.de>
Adresse: <ADDRESS address.de>
Treffen wir uns vor der <ADDRESS address.de>?
schick das Paket an <ADDRESS address.de>
wir sind umgezogen, <ADDRESS address.de>
j'habite au <ADDRESS address.fr>
rdv <ADDRESS address.fr>
mon adresse : <ADDRESS address.fr>
vivo en <ADDRESS address.es>
la dirección es <ADDRESS address.es>
nos vemos en <ADDRESS address.es>
abito in <ADDRESS address.it>
ci vediamo in <ADDRESS address.it>
l'indirizzo è <ADDRESS address.it>
write to <ADDRESS address.box>
Post an: <ADDRESS address.box>
""",
    "CARD": """
my card is <CARD card.spaced>
here's the visa: <CARD card.spaced> exp 09/27
Kartennummer <CARD card.spaced>
use <CARD card.bare> for the booking
card no. <CARD card.bare>, you know the rest
<CARD card.dashed>
numéro de carte : <CARD card.spaced>
mi tarjeta <CARD card.bare>
amex <CARD card.spaced>, dont lose it
can you pay with <CARD card.dashed>? I pay you back
numero carta: <CARD card.spaced> scad. 11/26
ok its <CARD card.bare>
""",
    "IBAN": """
my iban is <IBAN iban.spaced>
<IBAN iban.bare>
Überweis es bitte auf <IBAN iban.spaced>, danke
IBAN: <IBAN iban.bare> BIC: COBADEFFXXX
send the rent to <IBAN iban.spaced> by friday
voici mon RIB <IBAN iban.spaced>
mi cuenta es <IBAN iban.bare>
bonifico su <IBAN iban.spaced> grazie
kannst du mir 20€ auf <IBAN iban.bare> schicken
iban <IBAN iban.low>
Konto <IBAN iban.spaced> <NAME: ANNA>
transfer to <IBAN iban.bare>.
""",
    "ID": """
my ssn is <ID id.ssn>
SSN <ID id.ssnbare>
<ID id.ssn> is what they asked for
social security number: <ID id.ssnbare>
NI number <ID id.nino>
they need my nino, its <ID id.nino>
meine Steuer-ID ist <ID id.idnr>
Steueridentifikationsnummer: <ID id.idnr>
numéro de sécu <ID id.nir>
<ID id.nir>
mi DNI es <ID id.dni>
DNI <ID id.dni>
NIE: <ID id.nie>
il mio codice fiscale è <ID id.cf>
CF <ID id.cf>
mijn bsn is <ID id.bsn>
BSN: <ID id.bsn>
meu CPF: <ID id.cpf>
o cpf dela é <ID id.cpf>
mój PESEL to <ID id.pesel>
personnummer <ID id.pnr>
AHV-Nummer <ID id.ahv>
aadhaar <ID id.aadhaar>
rijksregisternummer <ID id.nn>
""",
    "IP": """
my ip is <IP ip.v4>
ssh nora@<IP ip.v4>
ping <IP ip.v4> doesn't answer
the server moved to <IP ip.v4>:8080
http://<IP ip.v4>/admin works for me
sshd[811]: Failed password for root from <IP ip.v4> port 50122 ssh2
banned <IP ip.v4>, he kept spamming
der Router hat <IP ip.v4>
<IP ip.v6>
my v6 is <IP ip.v6>
inet6 <IP ip.v6>/64 scope global
curl -6 http://[<IP ip.v6>]:8000/
try <IP ip.v6> instead, or <IP ip.v4>
AAAA record -> <IP ip.v6>
Server-IP: <IP ip.v4>, Port 25565
""",
    "URL": """
join here <URL url>
<URL url>
here's the link: <URL url>.
I got this mail, is <URL url> legit?
git clone <URL url>
klick mal auf <URL url> und sag mir ob es geht
voilà <URL url>
look at this (<URL url>) asap
<URL url.bare>
come to the group <URL url.bare>
aquí está: <URL url>
doc with all details: <URL url> thx!
""",
    "KEY": """
use my key <KEY key>
export API_TOKEN=<KEY key>
<KEY key>
did I leak <KEY key>? oh no
here: <KEY key>, dont share
curl -H "Authorization: Bearer <KEY key.long>" localhost
the token is <KEY key.long>
<KEY key.long>
secret: <KEY key.long>
put this in ~/.ssh/id_rsa|<KEY key.pem>|and chmod it
password: <KEY key.word>
the wifi password is <KEY key.word>
netflix pw is <KEY key.word> btw
Das Passwort ist <KEY key.word>
Passwort: <KEY key.word>
mot de passe : <KEY key.word>
la contraseña es <KEY key.word>
user: nora|pass: <KEY key.word>
pw=<KEY key.word>
{"api_key": "<KEY key.long>"}
""",
    "COORD": """
I'm here <COORD coord>
<COORD coord>
meet at <COORD coord>
GPS: <COORD coord>
Location: https://maps.google.com/?q=<COORD coord.plain>
https://www.google.com/maps/@<COORD coord.plain>,15z
geo:<COORD coord.plain>
we parked at <COORD coord>, remember
die Hütte liegt bei <COORD coord>
https://www.google.com/maps/place/Somewhere/@<COORD coord.plain>,17z/data=abc
https://www.openstreetmap.org/?mlat=1&q=<COORD coord.plain>
ubicación: <COORD coord>
""",
}

# Several kinds in one message; what people send as a contact or a form.
MIXED = """
<NAME: Anna Schmidt>|<ADDRESS address.de>|Tel: <PHONE phone.de>|<EMAIL email>
Hi <NAME: Mark>, call <PHONE phone.us> or mail <EMAIL email>
<NAME: Giulia> abita in <ADDRESS address.it>, tel <PHONE phone.it>
booking for <NAME: Siobhán>: card <CARD card.spaced>, mail <EMAIL email>
Empfänger <NAME: Jürgen Groß>, IBAN <IBAN iban.spaced>
<NAME: Priya>: user root, password: <KEY key.word> on <IP ip.v4>
<NAME: Emeka> shared <URL url> with me
DNI <ID id.dni>, IBAN <IBAN iban.bare>
login <EMAIL email> password: <KEY key.word>
<NAME: Zoë> is at <COORD coord>
<NAME: Art Vandelay>, <ADDRESS address.en>
<NAME: José> mi número es <PHONE phone.es> y mi correo <EMAIL email>
<CARD card.spaced> or <IBAN iban.spaced>, whatever works
<ID id.ssn> and <ID id.nino> for the two forms
from <IP ip.v4> to <IP ip.v6>
links: <URL url> <URL url>
<COORD coord.plain> then <COORD coord.plain>
call <NAME: May Lin> (<PHONE phone.gb>) about <ADDRESS address.en>
pay <NAME: Dufour>: <IBAN iban.spaced>
<KEY key> on <IP ip.v4>
send <CARD card.bare> to nobody!! and <ID id.cpf> neither
<URL url> token <KEY key.long>
<COORD coord> near <ADDRESS address.fr>
<ID id.ahv>, <IBAN iban.spaced>, <CARD card.spaced>
"""

# No personal data at all, and much that looks like it.
HARMLESS = """
that was {price} and worth it
it costs {price}, not {price}
see you at {time}
on {date} at {time}?
we lost 3-2 again, {n}-{n} last week
update to v{version} please
python {version} is out
upgraded from version {version} to {version} yesterday
order {order} shipped
Bestellnummer {order}
that was back in {year}
{year}-{year} were good years
population {k}, density {nn}
{long} is a big number
2^{n} - 1 is prime? {n} * {n} = {nn}
{k} + {k} = {k}
pi is 3.14159, e is 2.71828
solve for x: {n}x + {n} = {nn}
ISBN 978-3-16-148410-1 is not even a valid one
isbn 0-306-40615-9 hmm
#throwback{year} #nofilter #{n}days
@ the gym, back at {time}
will you be there at {time}?
Will you come? I may be late
May I ask you something
may the 4th be with you
mark my words, it will rise
a rose is a rose
art class was fun
the big bang, a big cat, big deal
my aunt has {n} cats
i need {n} bags, {n} pens and {nn} clips
chapter {n}, section {n}.{n}.{n}, page {nn}
room {nn}, floor {n}
bus {nn} leaves at {time}
train ICE {nn} at {time} from platform {n}
flight LH{nn} lands {time}
the {year} world cup final was 4-2
score: {n}:{n}, {n}:{n}, {n}:{n}
i ran {n} km in {time} min
he is {n} years old, she is {n}
the recipe needs {nn}g flour, {nn}ml milk
100% sure, 50/50 at best, 24/7
windows 10, ps5, iphone 13 pro max
rtx 3080 vs rx 6800, {nn} fps
{n} street artists painted {n} walls
a 2 way street
3 place settings and {n} chairs
10 minute drive down the road
it is a 4 lane road, 5 star place
the password is wrong
I forgot my password again
password must have 8 characters
pin it on the board
the secret is patience
token of my love
my keys are in the car
the ip changed again, no idea what it is
the address is on the invitation
whats your number?
send me an email when you can
https://www.youtube.com/watch?v=dQw4w9WgXcQ
https://en.wikipedia.org/wiki/Rose_(flower)
https://www.imdb.com/title/tt2872732/
https://github.com/python/cpython/issues/{k}
have you read https://example.com/blog/2021/05/why-we-moved-to-rust-in-{year}.html?
www.example.com is down
look at example.org/news
hahahahahahahahahahahahahahahahahahaha
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaargh
nooooooooooooooooooooooooooooooooooooo
Donaudampfschifffahrtsgesellschaftskapitänsmütze
supercalifragilisticexpialidocious {n}
src/components/dashboard/widgets/TableWidget2.tsx line {nn}
/usr/local/lib/python3.11/site-packages/numpy/core/__init__.py
std::vector<int> a; foo::bar(); a::b
10:30:15 then 11:45:00
1:2:3 ratio, 16:9 screen
react@18.2.0 and lodash@4.17.21
3 apples @ 1.50 each
lat is short for latissimus
grades: 1.3, 2.0, 1.7, 2.3
0.125, 0.250, 0.375, 0.500
growth of 1.250, 1.375 and 1.500 percent
x=0.12345 after 1000 steps, loss 1.23456
(1.41, 1.73) is the point
temperature 23.5, humidity 45.2
Kapitel 3, Seite {nn}, Absatz 2
Platz 1 für uns! Platz 2 für euch
Am Montag 18 Uhr, am Freitag 20 Uhr
Im Mai {year} war das
um {time} Uhr, Gleis {n}
2 rue... je sais plus
on a 3 cours de maths et 2 places
salimos a las {time}, mesa {n}
via Zoom um {time}
a las 5 en la calle
mañana, piso 3
ci vediamo alle {time}, via Skype
1984 by Orwell, 2001 a space odyssey, 451
4 8 15 16 23 42
my wifi is {n} mbps
4242 steps so far, {k} yesterday
track no {n}, disc {n}
invoice {year}-{nn} for {price}
ticket #{nn}{nn}
MAC address? no, big mac
serial {nn}-{nn}-{nn}
1-2-3, 1-2-3, dance
the model has {k},000,000 parameters
123-456-789 testing
call of duty {n}
text me later
tel aviv was great in {year}
20{n} is not {n}02
DE is Germany, GB is Britain 12 34
nino is a nice name, dni means do not interact
{n} people, {n} tables, {k} napkins
i work 9-5, mon-fri, {n} weeks a year
"""
