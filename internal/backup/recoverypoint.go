package backup

import (
	"slices"
	"strings"
	"time"

	"github.com/cairn-backup/cairn/internal/arm"
)

// RecoveryPointType is the resource type of a recovery point.
const RecoveryPointType = InstanceType + "/recoveryPoints"

// RecoveryPoint is the properties of a recovery point. Its friendly name is its time, since that is what people look for
// in a list; Azure repeats the name there.
type RecoveryPoint struct {
	ObjectType          string             `json:"objectType"`
	RecoveryPointID     string             `json:"recoveryPointId"`
	RecoveryPointTime   time.Time          `json:"recoveryPointTime"`
	RecoveryPointType   string             `json:"recoveryPointType"`
	FriendlyName        string             `json:"friendlyName"`
	DataStores          []DataStoreDetails `json:"recoveryPointDataStoresDetails"`
	RetentionTagName    string             `json:"retentionTagName"`
	RetentionTagVersion string             `json:"retentionTagVersion"`
	PolicyName          string             `json:"policyName"`
	PolicyVersion       *string            `json:"policyVersion"`
	ExpiryTime          *time.Time         `json:"expiryTime"`
	// RecoveryPointState is Completed, or Partial when something in scope was left out.
	RecoveryPointState string `json:"recoveryPointState"`
	// Cairn is ours, beside Azure's; it is filled in when a recovery point is read.
	Cairn *RecoveryPointCairn `json:"cairn,omitempty"`
}

// RecoveryPointCairn is what Azure does not tell of a recovery point.
type RecoveryPointCairn struct {
	Retention RecoveryPointRetention `json:"retention"`
	// ScheduledTime is the slot of the schedule that it was made for, nil for a backup on demand.
	ScheduledTime *time.Time `json:"scheduledTime"`
}

// RecoveryPointRetention is why a recovery point is still there, and when it goes.
type RecoveryPointRetention struct {
	// State is Kept, or Expiring when it is to be deleted.
	State   string   `json:"state"`
	Reasons []Reason `json:"reasons"`
	// Expires is nil when it is not known.
	Expires *time.Time `json:"expires"`
}

// Reason is a stable code and a sentence.
type Reason struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// DataStoreDetails is a recovery point's copy in one store.
type DataStoreDetails struct {
	ID                    string     `json:"id"`
	Type                  string     `json:"type"`
	CreationTime          time.Time  `json:"creationTime"`
	ExpiryTime            *time.Time `json:"expiryTime"`
	MetaData              *string    `json:"metaData"`
	Visible               bool       `json:"visible"`
	State                 string     `json:"state"`
	RehydrationExpiryTime *time.Time `json:"rehydrationExpiryTime"`
	RehydrationStatus     *string    `json:"rehydrationStatus"`
}

// Filter chooses recovery points by time; a zero bound is none.
type Filter struct {
	Start, End time.Time
	// None is set by a filter for what no recovery point here is, such as another store.
	None bool
}

// NewFilter reads a $filter: startDate and endDate, and isVisible, restorePointDataStoreId, restorePointState and extendedInfo as far as they make a
// difference. The empty one chooses all.
func NewFilter(terms arm.Filter) (Filter, error) {
	var f Filter
	var err error
	for _, c := range terms {
		switch c.Name {
		case "startdate":
			err = FilterTime(&f.Start, c, arm.FilterEqual, arm.FilterGreaterOrEqual)
		case "enddate":
			err = FilterTime(&f.End, c, arm.FilterEqual, arm.FilterLessOrEqual)
		case "isvisible":
			f.None = f.None || strings.EqualFold(c.Value, "false")
			err = arm.Filter{c}.Equalities()
		case "restorepointdatastoreid":
			f.None = f.None || !strings.EqualFold(c.Value, OperationalStore)
			err = arm.Filter{c}.Equalities()
		case "restorepointstate", "extendedinfo":
			// every recovery point here is committed, and has no further information
			err = arm.Filter{c}.Equalities()
		default:
			err = arm.BadFilter("nothing can be chosen by '%s', but by startDate, endDate, isVisible, restorePointDataStoreId, restorePointState and extendedInfo", c.Name)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// FilterTime reads a comparison with a time into a bound, which must not have one yet. Operators are those that make sense.
func FilterTime(bound *time.Time, c arm.Comparison, operators ...string) error {
	if !slices.Contains(operators, c.Operator) {
		return arm.BadFilter("'%s' is compared by %s, not by %s", c.Name, strings.Join(operators, " or "), c.Operator)
	}
	if !bound.IsZero() {
		return arm.BadFilter("'%s' is bounded twice", c.Name)
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02"} {
		if t, err := time.Parse(layout, c.Value); err == nil {
			*bound = t.UTC()
			return nil
		}
	}
	return arm.BadFilter("%s '%s' is not a time such as 2026-01-31T00:00:00Z", c.Name, c.Value)
}
