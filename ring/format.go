package ring

// Format names everything that a table depends on besides its members. Replicas of different formats disagree about new
// users.
const Format = "consistent-1.0.0 xxhash64 P65537 R1000 L1.10"

// The parameters, measured over every member count from 2 to 200: the fullest member stays below 1.11 of the mean, and
// members that stay keep what they have, but for at most 2.8 % of the ideal movement up to 50 members.
const (
	// partitions is prime and at least 300 for each member: with fewer, the bound moves keys that could have stayed.
	partitions = 65537
	// replication is the number of points of a member on the circle. The more, the less the bound has to correct.
	replication = 1000
	// load is how much fuller than the mean a member may be.
	load = 1.10

	// Beyond so many members, weights counted, each gets the default of buraksezer/consistent. Crossing the border changes
	// the proposals of new users once.
	manyMembers     = 200
	manyReplication = 20
)
