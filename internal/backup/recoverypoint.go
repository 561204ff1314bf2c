package backup

import (
	"fmt"
	"maps"
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

// Matches says whether a recovery point of that time is chosen.
func (f Filter) Matches(t time.Time) bool {
	return !f.None && (f.Start.IsZero() || !t.Before(f.Start)) && (f.End.IsZero() || !t.After(f.End))
}

// NewFilter reads the terms of a $filter, by their names: startDate and endDate, and isVisible, restorePointDataStoreId,
// restorePointState and extendedInfo as far as they make a difference. No terms choose all.
func NewFilter(terms map[string]string) (Filter, error) {
	var f Filter
	for _, name := range slices.Sorted(maps.Keys(terms)) {
		if err := f.apply(name, terms[name]); err != nil {
			return f, err
		}
	}
	return f, nil
}

func (f *Filter) apply(name, value string) error {
	var err error
	switch strings.ToLower(name) {
	case "startdate":
		f.Start, err = filterTime(name, value)
	case "enddate":
		f.End, err = filterTime(name, value)
	case "isvisible":
		f.None = f.None || strings.EqualFold(value, "false")
	case "restorepointdatastoreid":
		f.None = f.None || !strings.EqualFold(value, OperationalStore)
	case "restorepointstate", "extendedinfo":
		// every recovery point here is committed, and has no further information
	default:
		err = invalidFilter(fmt.Sprintf("nothing can be chosen by '%s'", name))
	}
	return err
}

func filterTime(name, value string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02"} {
		if t, err := time.Parse(layout, value); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, invalidFilter(fmt.Sprintf("%s '%s' is not a time", name, value))
}

func invalidFilter(what string) error {
	return arm.Invalid("$filter", "The filter is wrong: %s.", what).
		WithAction("Write it as startDate eq '2026-01-01T00:00:00Z' and endDate eq '2026-02-01T00:00:00Z', or leave it out.")
}
