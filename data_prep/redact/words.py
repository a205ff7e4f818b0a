"""Word lists for names: what is a word before it is a name. All are folded, as in ``names.fold``."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# What English chats often say in small letters, as counted in the Chit-Chat conversations; people call themselves
# by such words too.
COMMON = word_set("""
    ability able about above abroad absolutely accent accept accepted access accident accidentally account accounting
    accurate across act acting action active activities actual actually add admire admit adult advanced advantage
    adventure advice affect afford afraid after afternoon again against age ago agree ahead air alive all allergic
    allergies allow allowed almost alone along alot already alright also always amazing amount and angel angry animal
    animals animation anime ankle annoying another answer answers any anybody anymore anyone anything anyway anyways
    anywhere apart apartment app apparently application applied apply applying appreciate apps are area areas around
    artificial artist artists ask asked asking asleep assume assuming ate attention aunt available average avoid awake
    aware away awesome awful awkward baby back bacon bad bag balance bald ball ballroom band bank barely base based
    basic basically basketball bathroom beach beans bear beat beautiful beauty became because become becomes becoming
    bed been beer before begin beginning behind being believe benefit benefits besides best bet better between beyond
    big bigger biggest bike bird birds birthday bit black blame blast blinked blood blue board boat body bone book
    books bored boring born boss bot both bottom bought box boy boyfriend boys brain brand bread break breakfast bring
    brings bro broke broken brother brothers brought brown bubbles bucks buddy bugs build building buildings built
    bunch bunny business busy but butter button buy buying cake call called calling calls calmly came camp camping
    campus can cancer candy cannot captain car card cards care career carefully carrot carry cars case cat catch cats
    caught cause causes center certain certainly challenge chance chances change changed changes changing channel
    character characters charge chat chats chatted chatting cheap cheaper check checked checkered cheese chemistry
    chess chicken child childhood children chill chilling chip chips chit chocolate choice choices choir choose chose
    church cities city class classes classic classical clay clean cleaning clear cliff climb climbing clock close
    closed closer clothes club clue coach coast code coding coffee cold college color colors come comedy comes
    comfortable coming common communicate communication community companies companion company compare compared compete
    competition competitive complete completely complex complicated computer computers concept concert conference
    confused confusing connect connected connection connections consider considered considering constantly contact
    content contest continue control conversation conversations cook cookie cookies cooking cool cooler coolest copy
    correct cost costs coughed could count countries country counts couple course courses cousin cousins cover covered
    cow crap craziest crazy creaky cream create created creating creative credit credits creepy cried cringed crisply
    cross cry culture cultures cup curious current currently cut cute dad dance dancing dang dangerous dark darling
    data date dates dating day days dead deal death debt decent decide decided decision decisions dedicated deep
    define definitely degree degrees delicious dental dentist dentures department depending depends depression desert
    deserve design details develop developed development did die died difference different differently difficult
    dinner direction dirt dish dishes distance distracted doctor doctors does dog dogs doing dollar dollars done door
    dope double doubt down dragon draw drawing dream dreams dress drew drink drive driver drives driving drop dropped
    drove dry dude due dumb dunno during dying each earlier early earn earth easier easily easy eat eaten eating
    economics economy edge education effective effects effort egg eggs either electric electrician elementary elephant
    else email embarrassed emotion emotional emotions emphasis empty end ended ending ends energy engaged engineer
    engineering enjoy enjoyed enjoying enough enter entire entirely environment episode episodes essay essays even
    evening event events eventually ever every everyday everyone everything everywhere evil exact exactly exam example
    exams except exchange excited exciting exercise exist expect expected expecting expensive experience experiences
    explain explore extra extremely eye eyes face fact fail fair fairly fake fall falling falls familiar families
    family famous fan fancy fantastic fantasy far farm fascinating fast faster fat fault favorite favorites fear feel
    feeling feelings feels feet fell felt few fiction field fight fighting figure figured fill filled film films final
    finally finals finance financial find finding fine fingers finish finished finishing fire first fish fishing fit
    five fix fixed flavor flip floor fly flying focus focused follow following food foods foot football for force
    foreign forever forget forgot form forward found four fox freak freaking free fresh freshman freshmen fried friend
    friendly friends fries frisbee from front fruit frustrating full fully fun function funny further future gain game
    gamer games gaming gas gave gear general generally genius genre get gets getting ghost giant gift girl girlfriend
    girls give given gives giving glad glass glasses goal goals goes going gold gone good goodness gosh gospel got
    gotten government gracefully grade grades graduate graduated graduating graduation grandparents grateful great
    greatest green grew gross ground group groups grow growing grown guess guessing guitar gun guns guy guys gym had
    hair half hand handle hands hang hanging happen happened happening happens happy hard harder hardest hardly has
    hate hated have havent having head heading headphones health healthy hear heard hearing heart heat heavy heck
    hello help helped helpful helping helps her here hero hes hey hide high higher highly hike hikes hiking hilarious
    hill him himself hip his history hit hitting hobbies hobby hold holding home homework honest honestly honey hop
    hoping horrible hot hour hourly hours house houses housing how huge huh human humans humor hundred hungry hurt
    husband ice idea ideas imagine immediately impact important impossible impressed impression impressive improve
    incoming incredible incredibly indeed indigo individual industry info information ink insane inside inspiring
    instead instrument instruments intelligence intelligent intense interest interested interesting interests
    international internet internship internships interview into invest involved island isn issue issues its itself
    jazz jealous jelly job jobs jogged join joke jokes joking judge jump jumped jumping junior just keep keeping keeps
    kept kettle key keyboard kid kidding kids kill killed killing kind kinda kinds king kitchen kitty knew knock know
    knowing knowledge known knows lab labs lack lady lame land landlord language languages laptop large last late
    lately later laugh laughed laughing laundry law laws lazy lead leader leaderboard leaders learn learned learning
    least leave leaving left legit legs less lessons let lets letter level library lie life light lightly lights like
    liked likely likes limit line lines link lion list listen listened listening lit literally little live lived lives
    living local lol long longer longest look looked looking looks lose lost lot lots loud loudly love loved lover
    loves low lower luck lucky lunch machine machines mad made magic magical magically main mainly major majoring
    majority majors make makes making mama man manage management many market marketing marriage married marry master
    masters match matched material math matter maybe meal mean meaning means meant meat media medical meet meeting
    member members memes memories memory men mental mention mentioned mess message messages messed met metal middle
    midnight midterm midterms might miles milk million millions mind minds mine minor minute minutes miss missed
    missing mission missionaries missionary missions mistake mistakes mix mixed model modern mom moment moments money
    month months mood moon more morning most mostly mother motivated motivation mountain mountains mouth move moved
    movie movies moving much multiple murder muscular music musical must myself nah name named names nap nasty natural
    nature near nearly neat necessarily necessary need needed needs negative neighbor neighbour neither nerd nervous
    never new news next nice night nights ninja nobody non none nope normal normally nose not note notes nothing
    noticed now number numbers nursing nuts object obsessed obviously ocean odd off offer office official often okay
    old older oldest once one ones online only onto open opened opening opinion opinions opportunities opportunity
    opposite option options orange order original originally other others otherwise our ourselves out outside over
    overall own pages paid pain panda papa paper papers parent parents park parrot part particular parties parts party
    pass passed passion passionate past pasta path pay paying pays peace peanut people peoples per percent perfect
    perfectly perhaps period person personal personality personally perspective pet pets philosophy phone phones
    photography physical physics piano pick picked picture pictures piece pig pigs pink pizza place places plan plane
    planet planned planning plans plant plants play played players playing plays please pleasure plenty plot plumber
    point points political politics pool poor pop popular population position positive possible possibly post potatoes
    potential power powerful powers practically practice pre prefer prepare prepared present pressure pretty price
    prince princess private prize prizes probably problem problems process product productive products professional
    professor professors program programmed programming programs progress project projects promise prompt prompts
    proud provide psychology public pull pulled purple purpose push pushing put putting quality queen question
    questions quick quickly quiet quietly quit quite quote race raffle rain raise raised ran random randomly range
    rare rarely rate rather reach read reading ready real realistic reality realize realized really reason reasons
    recent recently recognize recommend record red regular relate related relationship relationships relaxing religion
    relive remember reminds rent require required research resources respect respond response responses rest
    restaurant review rice rich rid ride ridiculous riding right rights risk river road robot robots rock rocks roll
    room roommate roommates rough round rude rule rules run running sad safe said sales same sandwich sauce save saved
    saving saw say saying says scared scary scene scented schedule scholarship scholarships school schools sci science
    score scores screen screw sea search season seasons second seconds secret security see seeing seem seemed seems
    seen self sell selling semester semesters seminary send sending senior sense sent sentient series serious
    seriously serve served service serving set setting several shadow shape shaped share sharing she sheep shell shes
    shoes shoot shop short shot should shouldn show showed shower showing shows shrew shut siblings sick side sign
    silly silver similar simple simply since sing singing single sister sisters sit site sitting situation situations
    six size skiing skill skills skin sky sleep sleeping slept slightly slow slowly small smaller smart smell smells
    snow soccer social society softly software sold solid solve some somebody someday somehow someone something
    sometime sometimes somewhat somewhere son song songs soon sophomore sorry sort sorts soul sound sounds space speak
    speaking special specific specifically speech speed spell spend spending spent spirit spiritual spoke sport sports
    spot spread spring square stand star stars start started starting starts state stay stayed staying steak step
    stick still stomach stone stop stopped store stories story straight stranger street strength stress stressed
    stressful strong struggle struggling stuck student students studied studies study studying stuff stupid style
    subject success successful such suck sucks suddenly sugar sun sunshine super support suppose supposed sure surgery
    surprised survive sushi swaying swear sweet sweetie swim swimming swing switch system table take taken takes
    taking talent talented talk talked talking talks tall taste tastes taught tea teach teacher teachers teaching team
    teams tech technically technology teeth tell telling tells temple ten tend tennis term terms terrible test testing
    tests text texting than that thats the theater their them themselves then theory there theres these they thing
    things think thinking thinks third this tho those though thought thoughts thousand three threw through throughout
    throw tickets tiger till time times tiny tired today together told tomorrow ton tonight tons too took top topic
    topics total totally touch tough tour towards town track trade traffic train trained training travel traveling
    treat tree trees trick tried trip trips trouble true truly trust truth try trying tuition turn turned turning
    turns twice two type types typically typing uncomfortable under understand understanding unfortunate unfortunately
    unicorn unique universe unless until upon upset use used useful username uses using usually vacation value version
    very video videos view violin visit visited visiting voice volleyball vote wait waiting wake walk walked walking
    wall wand want wanted wanting wants ward warm was waste watch watched watching water waved wax way ways wear
    wearing weather web website wedding week weekend weeks weight weird welcome well went were wet what whatever
    whatnot whats when whenever where whether which while whispered white who whole why wife wig wild willing win wind
    window windows wine wings winning wins winter wise wish with within without woke wolf woman women won wonder
    wonderful wondering wooden word words work worked working works world worried worries worry worse worst worth
    would wow wrist write writing written wrong wrote yeah year yearly years yellow yes yesterday yet you young
    younger youngest your youre yours yourself zero
""")

# First and last names that are ordinary words of English, German, Spanish, French or Italian.
WORD_NAMES = word_set("""
    abbot abend abril adler alt amber amor an angel apple april art ash ashes august autumn avril bach bacon baker
    ball banks barber baron basil bauer baum bear bee bell bella bello berg berger berry best bill bin bird birdie
    bishop black blanco blaze blessing bliss block blood blue blum bond boulanger braun bridges bright brook brooks
    brown buck bud buddy bueno burns busch bush butcher butler campo can candy carpenter carter casas case cash
    castillo cave champ chance charity chase cherry child chip christian christmas church cielo clay clerk cliff coco
    colonel colt constance consuelo cook cooper costa cotton couch cross crow cruz crystal daisy dale dance darling
    dash dawn day deacon dean dear delgado destiny dick din do dolores don dot dove drain drew duke dulce dusty earl
    early east easter echo ember engel english era esperanza estrella eve faith falke farmer fein feld fern ferry
    field fields fine fish fisher fleur flood flor flower foot ford forest forward fox franco frank frau french friday
    fromm frost fuchs gamble gardener gates gay gee gem gentle german gig ginger gioia glen gold good goodman gott
    grace graf grand grant grass graves gray green grey gross guy hahn hall hand happy hard hardy harmony hawk hazel
    head heather herbst hero high hill hills himmel hirsch holiday holly honey honor honour hood hook hope horn house
    hunt hunter hurt iglesia in iris ivy jack jade january jasmine jesus jet jets jo jobs joy judge juin july june
    jung justice keys kind king kit klein knight konig kurz lake lamb lance lane lang law leal leon leone liberty lieb
    light lily little long love lovely low luck luna luz mac mai major malo mann mar marina mark marsh marshal marzo
    mason mat match max may meadows melody mercedes mercy merit merry milagros mile miles miller min misty monday
    moody moon moor more moreno morgen moss most mount my nada nail new nick noble norm north old olive on opal otter
    pace page paige pain park parks part pat patience paz peace peach pearl penny petit pierce pierre pilar plum pool
    pope poppy porter post potter pound power powers prado price prince prior prudence prune puente quill rain raven
    ray reed remedios rey reyes rice rich ridge river rivera rivers robin roche rock rocket rod rojo rosa rosario rose
    rosemary rot roth roux ruby rush rusty sage sandy savage scarlet schwarz see sergeant sharp shepherd sherry
    shields shore short silver simple singer skipper sky skye small smith so sol sommer son sonne south speed spring
    squire stag star stark steel stein sterling stern stew stolz stone storm street strong sue sugar summer sun sunny
    sunshine swan sweet swift tab tad tailor tall tally tan tanner taylor temple teufel tin to trace trip trout tuck
    turner vale van vater verde verity vic victor victory vine violet vogel wade wald walker wall ward waters way
    weather weaver weeks weiss well wells west wheat white will wills wing winter wise wish wolf wood woods woody
    worth yard young zip
""")

# Titles and particles: no names when they stand alone.
PARTICLES = word_set("""
    abu al and ben bin bint da dame das de degli dei del della delle dello den der des di do don dona dos dott dr dra
    du e el fr frau herr hr i ibn ii iii ing iv jr la lady las le les lord los madame mag md miss mlle mme monsieur mr
    mrs ms mx of phd prof saint san santa sig sir sr st ten ter the und van von y zu
""")

# What contacts are called that names nobody.
ROLES = word_set("""
    abuela abuelo account admin anonymous arbeit aunt auntie aunty boss bot bro brother buero buro casa cell chef
    chief coach contact dad daddy deleted everybody everyone family father grandma grandpa granny group guest handy
    hello help home info iphone lavoro ma mama maman mami me member mobile mom mommy mother mum mummy mutter mutti nan
    nana new news newsletter no nonna nonno noreply office old oma omi onkel opa opi pa papa papi phone privat private
    reply sales service sis sister stranger support system tante team tia tio trabajo uncle unknown user vater work
    you zia zio
""")

# Names that are months too.
MONTHS = word_set("""
    abril april august avril giugno january juin juli julio july june juni junio luglio maggio mai march may mayo
""")

# After these, a capitalised word that begins a sentence is a verb: Will you, May I, Mark my.
FOLLOWERS = word_set("""
    a all an anybody anyone anything as be do everyone he her his i if it my no not of our she somebody someone
    something that the their there these they this those to we what who you your
""")
